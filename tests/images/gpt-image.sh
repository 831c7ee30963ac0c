# shellcheck shell=bash
# Sourced by build-tiny.sh and build-debian.sh: a bootable GPT disk image as a plain file, without loop
# devices, mounts or root, so that it works in containers too, and byte for byte the same every time.
#
#   partition 1  BIOS boot   GRUB's core.img, which boot.img in the MBR loads
#   partition 2  ESP (FAT)   EFI/BOOT/BOOTX64.EFI, and what both GRUBs read
#   partition 3  root (ext4)

SECTOR=512
BIOS_FIRST=2048  # sectors; 1 MiB for core.img
ESP_FIRST=4096
ESP_SECTORS=131072 # 64 MiB: FAT32 needs 33 MiB at least
ROOT_FIRST=$((ESP_FIRST + ESP_SECTORS))
GRUB_LIB=/usr/lib/grub

# stable_uuid TEXT: the same text gives the same UUID (version 8, "custom").
stable_uuid() {
  local hash
  hash=$(printf '%s' "$1" | sha256sum)
  printf '%s-%s-8%s-8%s-%s\n' "${hash:0:8}" "${hash:8:4}" "${hash:13:3}" "${hash:17:3}" "${hash:20:12}"
}

# le NUMBER BYTES: as little-endian bytes, for dd.
le() {
  local number=$1 i
  for ((i = 0; i < $2; i++)); do
    # shellcheck disable=SC2059 # the format is the escape
    printf "\\x$(printf '%02x' $((number & 255)))"
    number=$((number >> 8))
  done
}
poke() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# partition_table IMAGE MIB SEED
partition_table() {
  truncate -s 0 "$1"
  truncate -s "$2M" "$1"
  # Without --quiet: `sgdisk -q` of 1.0.9 changes nothing and says nothing.
  sgdisk --clear --disk-guid="$(stable_uuid "$3 disk")" --set-alignment=1 \
    --new=1:$BIOS_FIRST:$((ESP_FIRST - 1)) --typecode=1:ef02 --change-name=1:bios --partition-guid=1:"$(stable_uuid "$3 bios")" \
    --new=2:$ESP_FIRST:$((ROOT_FIRST - 1)) --typecode=2:ef00 --change-name=2:esp --partition-guid=2:"$(stable_uuid "$3 esp")" \
    --set-alignment=2048 --new=3:$ROOT_FIRST:0 --typecode=3:8304 --change-name=3:root --partition-guid=3:"$(stable_uuid "$3 root")" \
    "$1" >/dev/null
}

# install_bios_grub IMAGE WORK: what grub-bios-setup does to a device, done to a file.
install_bios_grub() {
  local image=$1 core=$2/core.img boot=$2/boot.img sectors
  # "(,gpt2)": partition 2 of the disk that the BIOS booted, whatever its number is.
  grub-mkimage -O i386-pc -o "$core" -p '(,gpt2)/grub' \
    biosdisk part_gpt fat normal configfile linux serial terminal echo test search search_fs_uuid ext2 reboot
  cp "$GRUB_LIB/i386-pc/boot.img" "$boot"
  sectors=$((($(stat -c %s "$core") + SECTOR - 1) / SECTOR))
  [ "$sectors" -lt $((ESP_FIRST - BIOS_FIRST)) ] || die "GRUB's core.img does not fit its partition"
  # boot.img: kernel_sector, 8 bytes at 0x5c; the jump at 0x66 that distrusts the BIOS's drive number
  # becomes two NOPs, as grub-bios-setup does for a hard disk.
  le $BIOS_FIRST 8 | poke "$boot" $((0x5c))
  printf '\x90\x90' | poke "$boot" $((0x66))
  # core.img's first sector ends with its block list: start (8), length (2), segment (2, already right).
  le $((BIOS_FIRST + 1)) 8 | poke "$core" $((0x1f4))
  le $((sectors - 1)) 2 | poke "$core" $((0x1fc))
  # 440 bytes: behind them lie the disk signature and the protective MBR's table.
  dd if="$boot" of="$image" bs=440 count=1 conv=notrunc status=none
  dd if="$core" of="$image" bs=$SECTOR seek=$BIOS_FIRST conv=notrunc status=none
}

# make_esp IMAGE WORK SEED: the directory WORK/esp becomes partition 2.
make_esp() {
  local image=$1 esp=$2/esp.img serial
  mkdir -p "$2/esp/EFI/BOOT"
  # No device in the prefix: GRUB takes the partition it was loaded from. efi_gop gives the kernel its screen.
  grub-mkimage -O x86_64-efi -o "$2/esp/EFI/BOOT/BOOTX64.EFI" -p /grub \
    efi_gop part_gpt part_msdos fat normal configfile linux serial terminal echo test search search_fs_uuid ext2 reboot
  serial=$(stable_uuid "$3 fat")
  rm -f "$esp"
  truncate -s $((ESP_SECTORS * SECTOR)) "$esp"
  mkfs.fat -F 32 -n ESP -i "${serial:0:8}" --invariant "$esp" >/dev/null
  find "$2/esp" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  # One by one and sorted: `mcopy -s` takes the host directory's own order. -m keeps a file's time.
  (cd "$2/esp" && find . -mindepth 1 -type d -printf '%P\n' | sort) | while read -r name; do mmd -i "$esp" "::$name"; done
  (cd "$2/esp" && find . -type f -printf '%P\n' | sort) | while read -r name; do mcopy -m -i "$esp" "$2/esp/$name" "::$name"; done
  dd if="$esp" of="$image" bs=1M seek=$((ESP_FIRST * SECTOR / 1048576)) conv=notrunc,sparse status=none
}

# make_root IMAGE WORK SEED UUID: the directory WORK/root becomes partition 3.
make_root() {
  local image=$1 root=$2/root.img sectors
  sectors=$(sgdisk --info=3 "$image" | sed -n 's/^Partition size: \([0-9]*\) sectors.*/\1/p')
  rm -f "$root"
  truncate -s $((sectors * SECTOR)) "$root"
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -F -t ext4 -U "$4" -L root -m 1 \
    -E "hash_seed=$4,lazy_itable_init=0,nodiscard" -d "$2/root" "$root"
  same_inode_times "$root"
  dd if="$root" of="$image" bs=1M seek=$((ROOT_FIRST * SECTOR / 1048576)) conv=notrunc,sparse status=none
}

# make_xfs_root IMAGE WORK UUID: the same as xfs, by mkfs.xfs's own way to fill one without mounting it. All times are
# those of the build.
make_xfs_root() {
  local image=$1 root=$2/root.img sectors
  sectors=$(sgdisk --info=3 "$image" | sed -n 's/^Partition size: \([0-9]*\) sectors.*/\1/p')
  rm -f "$root"
  truncate -s $((sectors * SECTOR)) "$root"
  { printf '/\n0 0\nd--755 0 0\n' && xfs_prototype "$2/root" && printf '$\n'; } >"$2/prototype"
  mkfs.xfs -q -L root -m uuid="$3" -p "$2/prototype" "$root" || die "mkfs.xfs could not make the root"
  dd if="$root" of="$image" bs=1M seek=$((ROOT_FIRST * SECTOR / 1048576)) conv=notrunc,sparse status=none
}

# xfs_prototype DIRECTORY: what is in it, as mkfs.xfs -p reads it. Names without blanks, of which a tiny image has none.
xfs_prototype() {
  local path
  for path in "$1"/* "$1"/.[!.]*; do
    if [ -L "$path" ]; then
      printf '%s l--777 0 0 %s\n' "${path##*/}" "$(readlink "$path")"
    elif [ -d "$path" ]; then
      printf '%s d--%s 0 0\n' "${path##*/}" "$(stat -c %03a "$path")"
      xfs_prototype "$path"
      printf '$\n'
    elif [ -f "$path" ]; then
      printf '%s ---%s 0 0 %s\n' "${path##*/}" "$(stat -c %03a "$path")" "$path"
    fi
  done
}

# used_inodes EXT4: one number a line, without the reserved ones that hold nothing.
used_inodes() {
  dumpe2fs "$1" 2>/dev/null | awk '
    /^Inode count:/ { count = $3 }
    /^  Free inodes: / {
      sub(/^  Free inodes: /, "")
      ranges = split($0, range, ", ")
      for (r = 1; r <= ranges; r++) {
        ends = split(range[r], end, "-")
        for (i = end[1] + 0; i <= end[ends] + 0; i++) free[i] = 1
      }
    }
    END { for (i = 2; i <= count; i++) if (!(i in free) && (i == 2 || i == 7 || i == 8 || i > 10)) print i }'
}

# same_inode_times EXT4: `mke2fs -d` 1.47.0 copies the host's ctime, which nobody can set beforehand, and
# atime; 1.47.1 would take SOURCE_DATE_EPOCH. Set by inode number, in one debugfs run. mtimes are content.
same_inode_times() {
  local time field inode
  time=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)
  used_inodes "$1" | while read -r inode; do
    for field in atime ctime crtime; do
      printf 'sif <%d> %s %s\nsif <%d> %s_extra 0\n' "$inode" $field "$time" "$inode" $field
    done
  done >"$1.commands"
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f "$1.commands" "$1" >/dev/null 2>"$1.errors" ||
    die "debugfs could not set the times of $1: $(tail -n 1 "$1.errors")"
  rm "$1.commands" "$1.errors"
}
