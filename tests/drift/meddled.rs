//! A mounted tree in which something happens at chosen moments of a scan.

use regild::agent::drift::{Content, Identity, LiveTree, Names, Seen, Tree};
use std::io;

type Hook<'t> = Box<dyn Fn(&[u8]) + Sync + Send + 't>;

#[allow(missing_debug_implementations)] // It holds closures.
pub struct Meddled<'t> {
    pub inner: &'t LiveTree,
    /// Nothing tells that a file changed, as after a write past the file system.
    pub is_silent: bool,
    /// After it was looked at, before it is opened.
    pub before_open: Hook<'t>,
    /// Before each piece of its content.
    pub while_reading: Hook<'t>,
}

#[allow(missing_debug_implementations)]
pub struct MeddledFile<'t> {
    inner: <LiveTree as Tree>::File,
    path: Vec<u8>,
    tree: &'t Meddled<'t>,
}

impl<'t> Meddled<'t> {
    pub fn new(inner: &'t LiveTree) -> Meddled<'t> {
        Meddled { inner, is_silent: false, before_open: Box::new(|_| ()), while_reading: Box::new(|_| ()) }
    }

    fn identity(&self, identity: Identity) -> Identity {
        let Identity { device, inode, bytes, .. } = identity;
        if self.is_silent { Identity { device, inode, bytes, ctime_ns: 1, mtime_ns: 1 } } else { identity }
    }
}

impl<'t> Tree for &'t Meddled<'t> {
    type Directory = <LiveTree as Tree>::Directory;
    type File = MeddledFile<'t>;

    fn root(&self) -> io::Result<(Self::Directory, Seen)> {
        self.inner.root()
    }

    fn names(&self, directory: &Self::Directory, room_bytes: usize) -> io::Result<Names> {
        self.inner.names(directory, room_bytes)
    }

    fn look(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Seen> {
        let seen = self.inner.look(directory, name, path)?;
        Ok(Seen { identity: self.identity(seen.identity), ..seen })
    }

    fn enter(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Self::Directory> {
        self.inner.enter(directory, name, path)
    }

    fn open(&self, directory: &Self::Directory, name: &[u8], path: &[u8]) -> io::Result<Self::File> {
        (self.before_open)(path);
        Ok(MeddledFile { inner: self.inner.open(directory, name, path)?, path: path.to_vec(), tree: self })
    }
}

impl Content for MeddledFile<'_> {
    fn identity(&self) -> io::Result<Identity> {
        Ok(self.tree.identity(self.inner.identity()?))
    }

    fn read_at(&mut self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<usize> {
        (self.tree.while_reading)(&self.path);
        self.inner.read_at(offset_bytes, buffer)
    }
}
