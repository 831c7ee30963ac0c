//! H1 in its first form: what a machine gets that has no credentials, or another's.

use std::collections::BTreeSet;

use regild::wire::agent::{self, Event};
use regild::wire::drift::{NewKey, Signed};

use crate::drift::{KEY, REPORT as DRIFT_REPORT, TERMS};
use crate::lab::{CHECK_IN, IMAGE, Lab, Machine, Orders, REPORT, STRANGER};
use crate::raw::Answer;
use crate::standby::STANDBY;
use crate::verify::{VERIFY_CHECK_IN, VERIFY_REPORT};

/// Paths of `.route("PATH", ...)` in a part of src/http/mod.rs.
fn routes_in(source: &str) -> BTreeSet<&str> {
    source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// The routes for machines and for operators, as the sources have them: a new route fails until it is listed here.
fn routes() -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let source = include_str!("../../src/http/mod.rs");
    let (machines, operators) = source.split_once("pub fn operator_routes").expect("two routers in one file");
    let routes = (routes_in(machines), routes_in(operators));
    assert!(routes.0.contains("/healthz") && routes.1.contains("/v1/hosts"), "{routes:?}");
    routes
}

/// A host with everything that a record can hold, and what of it nobody else may read.
fn host_with_secrets(lab: &Lab) -> (Machine, Orders, Vec<String>) {
    lab.import_image();
    let machine = Machine::approved(lab, 1);
    let orders = machine.orders(lab);
    let mut check_in = machine.check_in(&orders, "the-session");
    check_in.inventory.system_uuid = Some("5ec2e700-0000-4000-8000-00000000cafe".into());
    check_in.inventory.serial = Some("SECRET-SERIAL".into());
    check_in.inventory.product = Some("SECRET-PRODUCT".into());
    check_in.inventory.macs.push("52:54:00:5e:c2:e7".into());
    assert_eq!(machine.say(lab, CHECK_IN, &check_in).status, 200);
    let record = lab.host(&machine).to_string();
    let secrets = ["5ec2e700-0000-4000", "SECRET-", "52:54:00:5e:c2:e7", "first image"];
    let secrets: Vec<_> = secrets.iter().map(|secret| secret.to_string()).collect();
    assert!(secrets[..3].iter().all(|secret| record.contains(secret) || secret == "SECRET-"), "{record}");
    let drawn = [orders.token.clone(), "the-session".to_owned()];
    (machine, orders, [secrets, drawn.to_vec()].concat())
}

fn says_nothing(answer: &Answer, secrets: &[String], place: &str) {
    let said = answer.head.clone() + &answer.text();
    for secret in secrets {
        assert!(!said.contains(secret.as_str()), "{place} tells {secret}: {said}");
    }
}

/// One request of the walk: of which route, and what it must be answered with.
struct Step {
    route: &'static str,
    method: &'static str,
    path: String,
    body: Vec<u8>,
    status: u16,
}

/// Every route of machines: without credentials, with wrong ones, and with another host's.
fn walk_of_machines(machine: &Machine, orders: &Orders, wrong: &Orders, theirs: &Orders) -> Vec<Step> {
    let json = |said: &dyn erased::Json| said.bytes();
    let survey = || Event::Step { step: agent::Step::Survey };
    let installed = format!(r#"{{"mac":"{}","image":"{IMAGE}"}}"#, machine.mac).into_bytes();
    let boot = machine.script_path();
    let refs = format!("/images/refs/{IMAGE}");
    let (manifest, pack) =
        (format!("/images/manifests/{}", "0".repeat(64)), format!("/images/packs/{}", "0".repeat(64)));
    let baseline = format!("/images/baselines/{}", "0".repeat(64));
    let forged = Signed { payload: format!(r#"{{"host":"{}"}}"#, machine.host), signature: "0".repeat(128) };
    let forged = json(&forged);
    // Template, method, path, body, status.
    let walk: Vec<(&'static str, &'static str, &str, Vec<u8>, u16)> = vec![
        ("/healthz", "GET", "/healthz", vec![], 200),
        ("/boot/{mac}/{firmware}", "GET", &boot, vec![], 200),
        ("/assets/{name}", "GET", "/assets/vmlinuz", vec![], 200),
        ("/assets/{name}", "GET", "/assets/..%2f..%2fregild.toml", vec![], 404),
        ("/images/refs/{name}", "GET", &refs, vec![], 200),
        ("/images/manifests/{digest}", "GET", &manifest, vec![], 404),
        ("/images/packs/{id}", "GET", &pack, vec![], 404),
        ("/images/baselines/{digest}", "GET", &baseline, vec![], 404),
        (CHECK_IN, "GET", CHECK_IN, vec![], 405),
        (CHECK_IN, "POST", CHECK_IN, vec![], 400),
        (CHECK_IN, "POST", CHECK_IN, json(&machine.check_in(wrong, "x")), 401),
        (CHECK_IN, "POST", CHECK_IN, json(&machine.check_in(theirs, "x")), 401),
        (CHECK_IN, "POST", CHECK_IN, json(&machine.check_in(orders, "the-session")), 401),
        (REPORT, "POST", REPORT, vec![], 400),
        (REPORT, "POST", REPORT, json(&machine.report(1, "x", survey())), 401),
        (REPORT, "POST", REPORT, json(&machine.report(7, "x", survey())), 401),
        // With another's words: `host_baseline`.
        ("/agent/v1/baseline", "GET", "/agent/v1/baseline", vec![], 405),
        ("/agent/v1/baseline", "POST", "/agent/v1/baseline", vec![], 400),
        ("/agent/v1/installed", "POST", "/agent/v1/installed", vec![], 400),
        ("/agent/v1/installed", "POST", "/agent/v1/installed", installed, 403),
        (STANDBY, "POST", STANDBY, vec![], 400),
        (VERIFY_CHECK_IN, "POST", VERIFY_CHECK_IN, vec![], 400),
        (VERIFY_CHECK_IN, "POST", VERIFY_CHECK_IN, json(&machine.verify_check_in(1, &orders.token)), 401),
        // With another's words: `verify`. More refusals than these from one address, and it is locked out.
        (VERIFY_REPORT, "POST", VERIFY_REPORT, vec![], 400),
        (TERMS, "POST", TERMS, vec![], 405),
        (KEY, "POST", KEY, vec![], 400),
        (DRIFT_REPORT, "POST", DRIFT_REPORT, vec![], 400),
        (DRIFT_REPORT, "POST", DRIFT_REPORT, forged, 401),
    ];
    let step = |(route, method, path, body, status): (_, _, &str, _, _)| {
        let path = path.to_owned();
        Step { route, method, path, body, status }
    };
    walk.into_iter().map(step).collect()
}

/// Every route of machines, without credentials, with wrong ones, and with another host's, from an address without a
/// lease and from another host's: refused, or the same for everybody; never a word about a host, and no attempt spent.
#[test]
fn h1_no_route_for_machines_tells_anything_about_a_host_to_others() {
    let lab = Lab::new();
    let (machine, orders, secrets) = host_with_secrets(&lab);
    let other = Machine::approved(&lab, 2);
    let theirs = other.orders(&lab);
    let before = lab.host(&machine);
    let wrong = Orders { token: "0".repeat(64), ..orders.clone() };
    let walk = walk_of_machines(&machine, &orders, &wrong, &theirs);
    let walked: BTreeSet<_> = walk.iter().map(|step| step.route).collect();
    assert_eq!(walked, routes().0, "this walk and src/http/mod.rs differ");
    for from in [STRANGER, other.address] {
        for Step { method, path, body, status, .. } in &walk {
            let place = format!("{method} {path} from {from}");
            let answer = lab.from(from).ask(method, path, body);
            assert_eq!(answer.status, *status, "{place}: {}", answer.text());
            says_nothing(&answer, &secrets, &place);
            assert!(!answer.text().contains("regild.token"), "{place}: {}", answer.text());
        }
    }
    drift_is_for_whom_the_address_is_leased_to(&lab, &machine, &other, &secrets);
    // From the host's own address the wrong words are no better; a host that is not there is answered alike.
    let mut nobody = other.check_in(&theirs, "x");
    nobody.host = "h-000000000000".into();
    let unknown = other.say(&lab, CHECK_IN, &nobody);
    let foreign = other.say(&lab, CHECK_IN, &machine.check_in(&wrong, "x"));
    assert_eq!((unknown.status, unknown.text()), (foreign.status, foreign.text()), "existence shows");
    let mut guess = machine.check_in(&wrong, "x");
    // Another machine behind the same MAC: refused by its token, before its identity is compared.
    guess.inventory.system_uuid = Some("00000000-0000-4000-8000-000000000001".into());
    let own = machine.say(&lab, CHECK_IN, &guess);
    assert_eq!(own.status, 401);
    says_nothing(&own, &secrets, "a wrong token from the right address");
    assert_eq!(lab.host(&machine), before, "something of it changed the record or spent an attempt");
}

fn drift_is_for_whom_the_address_is_leased_to(lab: &Lab, machine: &Machine, other: &Machine, secrets: &[String]) {
    let key = NewKey { host: machine.host.clone(), generation: 1, public_key: "0".repeat(64) };
    for (answer, status) in [
        (lab.from(STRANGER).get(TERMS), 403),
        (lab.from(other.address).get(TERMS), 404),
        (lab.from(STRANGER).ask("POST", KEY, &erased::Json::bytes(&key)), 403),
        (other.say(lab, KEY, &key), 401),
    ] {
        assert_eq!(answer.status, status, "{}", answer.text());
        says_nothing(&answer, secrets, "drift");
        assert!(!answer.text().contains(&machine.host), "{}", answer.text());
    }
}

/// No operator's route is on the machines' listener, by any method and any spelling.
#[test]
fn h1_operators_are_served_on_their_socket_only() {
    let lab = Lab::new();
    let (machine, _, secrets) = host_with_secrets(&lab);
    let operators = routes().1;
    let mut asked = 0;
    for route in &operators {
        let path = route
            .replace("{id}", &machine.host)
            .replace("{name}", IMAGE)
            .replace("{number}", "1")
            .replace("{verb}", "pause");
        assert!(!path.contains('{'), "a parameter that this test does not fill in: {route}");
        let spellings = [
            path.clone(),
            format!("/{path}"),
            format!("{path}/"),
            format!("/healthz/..{path}"),
            format!("/boot/x/bios/../../..{path}"),
            path.replace("/v1", "/%76%31"),
            format!("http://regild{path}"),
        ];
        for from in [STRANGER, machine.address] {
            let mut connection = lab.from(from);
            for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                for spelling in &spellings {
                    let answer = connection.ask(method, spelling, b"");
                    assert!([400, 404].contains(&answer.status), "{method} {spelling}: {answer:?}");
                    says_nothing(&answer, &secrets, spelling);
                    asked += 1;
                }
            }
        }
    }
    eprintln!("{} routes of operators, {asked} requests on the machines' listener", operators.len());
    // The same path is there on the socket.
    assert_eq!(lab.operator().get(&format!("/v1/hosts/{}", machine.host)).json()["id"], machine.host.as_str());
}

/// JSON of values of different types in one table.
mod erased {
    pub trait Json {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Json for T {
        fn bytes(&self) -> Vec<u8> {
            serde_json::to_vec(self).unwrap()
        }
    }
}
