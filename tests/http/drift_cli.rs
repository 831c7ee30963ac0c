//! `regild drift` against the real server: what an operator types from the first finding to the patch for the next image.

use std::process::Command;

use regild::wire::drift::Finding;

use crate::drift::{Agent, POLICY, changed, import};
use crate::lab::Lab;

const WAS: &str = "listen = 80\nworkers = 4\n";
const IS: &str = "listen = 8080\nworkers = 4\n";

fn edited() -> Finding {
    Finding { content: Some(IS.into()), ..changed(b"/etc/app.conf", WAS, IS) }
}

/// Issue 4, "The operator's view": list, show, explain, top, accept until a day, and "bring it back into the image".
#[test]
fn a_finding_is_seen_explained_accepted_and_brought_back_into_the_image() {
    let lab = Lab::new();
    import(&lab);
    lab.apply(POLICY, &["--loosen"]);
    let mut agent = Agent::new(&lab, 1);
    let host = agent.machine.host.clone();
    assert_eq!(agent.sends(&lab, &agent.report(1, vec![edited()])).status, 200);

    assert!(lab.regild(&["drift", "list", "--standing", "drifted", "--group", "default"]).contains(&host));
    assert_eq!(lab.json(&["drift", "list", "--select", "all"])[0]["findings"], 1);
    assert_eq!(lab.json(&["drift", "list", "--standing", "clean"]).as_array().unwrap().len(), 0);
    let shown = lab.regild(&["drift", "show", &host]);
    assert!(shown.contains("/etc/app.conf  content  (reported, policy test, rule 2: it is looked at)"), "{shown}");
    assert!(shown.contains("    -listen = 80\n    +listen = 8080\n"), "{shown}");
    let explained = lab.regild(&["drift", "explain", &host, "/etc/app.conf"]);
    assert!(explained.contains("content  reported by policy test, rule 2 (/etc/app.conf)"), "{explained}");
    let top = lab.regild(&["drift", "top", "--limit", "5"]);
    assert!(top.contains("/etc/app.conf"), "{top}");
    let refused = lab.try_regild(&["drift", "export", &host, lab.path("no.patch").to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1), "nothing is accepted yet");

    let accept = ["drift", "accept", "/etc/app.conf", "--group", "default", "--until", "30d", "--why", "next image"];
    assert!(lab.regild(&accept).starts_with("exception 1: /etc/app.conf is accepted until "));
    let explained = lab.regild(&["drift", "explain", &host, "/etc/app.conf"]);
    assert!(explained.contains("content  allowed by exception 1 (/etc/app.conf, until "), "{explained}");
    // The agent is told to go on reporting it.
    agent.asks(&lab);
    assert_eq!(agent.terms["rules"][0]["action"], "report");
    assert_eq!(agent.sends(&lab, &agent.report(2, vec![edited()])).status, 200);
    assert_eq!(lab.json(&["drift", "list"])[0]["standing"], "clean");
    let shown = lab.regild(&["drift", "show", &host]);
    assert!(shown.contains("accepted for a while, and no finding:\n/etc/app.conf  (accepted, exception 1"), "{shown}");

    let file = lab.path("app.patch");
    lab.regild(&["drift", "export", &host, file.to_str().unwrap()]);
    let apply = Command::new("patch").args(["-p1", "-i"]).arg(&file).current_dir(lab.path("tree")).output().unwrap();
    assert!(apply.status.success(), "{}", String::from_utf8_lossy(&apply.stdout));
    assert_eq!(std::fs::read_to_string(lab.path("tree").join("etc/app.conf")).unwrap(), IS);

    let listed = lab.regild(&["drift", "exceptions"]);
    assert!(listed.contains("next image") && listed.contains("group default"), "{listed}");
    lab.regild(&["drift", "revoke", "1"]);
    assert_eq!(lab.json(&["drift", "list"])[0]["standing"], "drifted");
    lab.regild(&["drift", "forget-key", &host]);
    let wrong = lab.try_regild(&["drift", "explain", &host, "etc/app.conf"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("absolute path"), "{wrong:?}");
    assert_eq!(lab.try_regild(&["drift", "accept", "/a", "--until", "30d", "--why", "w"]).status.code(), Some(2));
}
