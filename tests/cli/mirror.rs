//! `annals mirror`: what it says of its configuration, without a cluster. With one it is run by the tests against real brokers.

use super::{Annals, Answer, answer, fs};

fn run(annals: &Annals, config: &str, more: &[&str], variables: &[(&str, &str)]) -> Answer {
    let file = annals.dir.path().join("mirror.toml");
    fs::write(&file, config).unwrap();
    let args = ["mirror", "--config", file.to_str().unwrap()];
    let mut command = annals.command(&[&args[..], more].concat());
    for name in ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SASL_PASSWORD", "KAFKA_SECURITY_PROTOCOL"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    answer(command)
}

const CONFIG: &str = "[kafka]\nbootstrap_servers = \"localhost:1\"\n[mirror]\ntopics = [\"orders\", \"audit.*\"]\n";

#[cfg(not(feature = "kafka"))]
#[test]
fn a_build_without_kafka_says_which_one_has_it() {
    run(&Annals::new(), CONFIG, &["--check"], &[]).fails(2, "--features cli,kafka");
}

#[cfg(feature = "kafka")]
#[test]
fn the_configuration_is_checked_before_anything_else() {
    let annals = Annals::new();
    let said = run(&annals, CONFIG, &["--check"], &[]).ok();
    assert_eq!(said, "the configuration is in order: it forwards orders, audit.*\n");
    let sasl = "sasl_mechanism = \"PLAIN\"\nsasl_username = \"me\"\nsecurity_protocol = \"SASL_SSL\"\n";
    let with = |lines: &str| CONFIG.replace("[mirror]", &format!("{lines}[mirror]"));
    let secret = "hunter2-Zq8";
    run(&annals, &with(sasl), &["--check"], &[("KAFKA_SASL_PASSWORD", secret)]).ok();
    for (config, variables, part) in [
        (with("colour = 1\n"), &[][..], "mirror.toml: `kafka.colour` is unknown"),
        (with("linger = \"1h\"\n"), &[], "`kafka.linger` is \"1h\""),
        (with(sasl), &[], "`sasl_password` is not set"),
        (with(sasl), &[("KAFKA_SASL_PASSWORD", secret), ("KAFKA_SECURITY_PROTOCOL", "SSL")], "is SSL"),
        (CONFIG.to_owned(), &[("KAFKA_BOOTSTRAP_SERVERS", "nowhere")], "`KAFKA_BOOTSTRAP_SERVERS` names the server"),
        (CONFIG.replace("topics", "topic"), &[], "did you mean `topics`?"),
        ("[kafka]\nbootstrap_servers = \"a:1\"\n".to_owned(), &[], "`mirror.topics` is not there"),
        ("[mirror]\ntopics = [\"orders\"]\n".to_owned(), &[], "`bootstrap_servers` is not set"),
        ("[kafka\n".to_owned(), &[], "no TOML, in line 1"),
    ] {
        let answer = run(&annals, &config, &["--check"], variables);
        assert!(!answer.err.contains(secret), "{}", answer.err);
        answer.fails(2, part);
    }
    annals.run(&["mirror", "--config", "gone.toml"]).fails(5, "gone.toml: cannot read the configuration");
    annals.run(&["mirror"]).fails(2, "--config");
    // The configuration is in order, and there is no log.
    run(&annals, CONFIG, &[], &[]).fails(5, "there is no log in");
    annals.run(&["create", "orders"]).ok();
    // A read-only log has no room for it.
    let at_least_once = CONFIG.replace("[mirror]", "[mirror]\nguarantee = \"at_least_once\"");
    run(&annals, &at_least_once, &[], &[]).fails(2, "open read-only");
}
