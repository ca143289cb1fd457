//! The command line as a whole: help, completions, man pages and exit statuses.

mod support;

use std::process::{Command, Output, Stdio};

use support::backfiller::binary;

/// The commands, in the order of `--help`.
const COMMANDS: [&str; 11] = [
    "run",
    "enqueue",
    "status",
    "dead-letters",
    "export",
    "check",
    "completions",
    "man",
    "systemd-unit",
    "grafana-dashboard",
    "alert-rules",
];

/// Runs the program in an empty environment.
fn run(args: &[&str]) -> Output {
    Command::new(binary())
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the backfiller binary starts")
}

/// What it prints on standard output, when it ends well and says nothing else.
#[track_caller]
fn answer(args: &[&str]) -> String {
    let output = run(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
    assert_eq!(errors, "", "{args:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn help_lists_the_commands_in_their_order() {
    for help in ["-h", "--help"] {
        let text = answer(&[help]);
        let lines = text.lines().skip_while(|line| *line != "Commands:").skip(1);
        let commands: Vec<_> = lines
            .take_while(|line| !line.trim().is_empty())
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .filter(|name| !name.is_empty())
            .collect();
        assert_eq!(commands, [&COMMANDS[..], &["help"]].concat(), "{help}");
    }
}

#[test]
fn each_command_has_a_page_one_can_learn_from() {
    for command in COMMANDS {
        for help in ["-h", "--help"] {
            let text = answer(&[command, help]);
            let usage = format!("Usage: backfiller {command}");
            assert!(text.contains(&usage), "{command} {help}: {text}");
            assert!(text.contains("Examples:\n"), "{command} {help}: {text}");
            assert!(!text.contains("/home/"), "{command} {help}: {text}");
        }
    }
}

#[test]
fn a_page_says_more_than_the_line_of_the_list() {
    for (command, sentence) in [
        (
            "enqueue",
            "Handles are resolved, and so is each account's server",
        ),
        (
            "dead-letters",
            "leaves the input as an entry of the stream of dead letters",
        ),
        ("export", "the same proofs and the same events"),
    ] {
        for page in [&[command, "--help"][..], &["man", command]] {
            let text = answer(page).replace("\\*(Aq", "'");
            let words: Vec<_> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(sentence), "{page:?}: {text}");
        }
    }
}

#[test]
fn a_default_is_that_of_the_command() {
    for (command, default) in [("run", "info"), ("export", "warn")] {
        let text = answer(&[command, "--help"]);
        let log = text.split("--log <FILTER>").nth(1).expect("an option");
        let of_log = log.split("[default: ").nth(1).expect("a default");
        assert!(of_log.starts_with(default), "{command}: {log}");
    }
}

#[test]
fn help_is_a_command_as_well() {
    for (asked, page) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "enqueue"], &["enqueue", "--help"]),
        (
            &["dead-letters", "help", "drop"],
            &["dead-letters", "drop", "--help"],
        ),
        (
            &["help", "dead-letters", "drop"],
            &["dead-letters", "drop", "--help"],
        ),
    ] {
        assert_eq!(answer(asked), answer(page), "{asked:?}");
    }
    // It has no man page of its own.
    assert!(!answer(&["man"]).contains("help(1)"));
}

#[test]
fn enqueue_shows_only_options_that_mean_something_there() {
    let text = answer(&["enqueue", "--help"]);
    for shown in [
        "--redis-url",
        "--backfill-stream",
        "--high-water-mark",
        "--plc-url",
    ] {
        assert!(text.contains(&format!(" {shown} ")), "{shown}: {text}");
    }
    for hidden in [
        "--group",
        "--firehose-stream",
        "--dlq-stream",
        "--http-timeout-secs",
    ] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[test]
fn statuses_are_documented_where_help_ends() {
    for command in ["enqueue", "status", "dead-letters", "export", "check"] {
        assert!(
            answer(&[command, "--help"]).contains("Exit status: 0 "),
            "{command}"
        );
    }
    for action in ["list", "show", "requeue", "drop"] {
        let text = answer(&["dead-letters", action, "--help"]);
        assert!(text.contains("Exit status: 0 "), "{action}");
        assert!(text.contains("Examples:\n"), "{action}");
        assert!(answer(&["man", "dead-letters", action]).contains(".TH backfiller-dead-letters-"));
    }
    for args in [&["--help"][..], &["run", "--help"], &["run", "-h"]] {
        let text = answer(args).replace('\n', " ");
        for status in [
            "0 done",
            "1 failure",
            "2 usage",
            "3 the drain",
            "4 another",
            "130 second",
        ] {
            assert!(text.contains(status), "{args:?}: {status}");
        }
    }
}

#[test]
fn run_is_what_happens_without_a_command() {
    for args in [&[][..], &["run"]] {
        let output = run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            errors.contains("BACKFILLER_CONSUMER (unset) is not accepted"),
            "{errors}"
        );
    }
}

#[test]
fn what_is_no_command_is_refused_with_status_2() {
    for args in [
        &["runn"][..],
        &["man", "no-such-command"],
        &["completions", "no-such-shell"],
        &["--consumer", "c", "man"],
        &["--no-such-option"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn what_cannot_be_said_does_not_change_the_status() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let full = std::fs::File::options().write(true).open("/dev/full");
    let full = full.expect("a file that is full");
    for (args, status) in [
        (&["status", "--redis-url", "redis://127.0.0.1:1"][..], 1),
        (&["enqueue"], 2),
        (&["run"], 2),
        (&["--no-such-option"], 2),
        (&["systemd-unit", "--exec-path", "/home/me/backfiller"], 0),
    ] {
        let errors = [
            Stdio::from(writer.try_clone().expect("a descriptor")),
            Stdio::from(full.try_clone().expect("a descriptor")),
        ];
        for stderr in errors {
            let ended = Command::new(binary())
                .args(args)
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(stderr)
                .status();
            let ended = ended.expect("the backfiller binary starts");
            assert_eq!(ended.code(), Some(status), "{args:?}");
        }
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = answer(&["completions", shell]);
        for command in COMMANDS {
            assert!(text.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn bash_takes_its_completions() {
    let script = format!(
        "{}\nCOMP_WORDS=(backfiller comp)\nCOMP_CWORD=1\n_backfiller backfiller comp backfiller\necho \"${{COMPREPLY[*]}}\"",
        answer(&["completions", "bash"])
    );
    let Ok(output) = Command::new("bash")
        .args(["--norc", "-c", &script])
        .output()
    else {
        println!("skipped: there is no bash");
        return;
    };
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "completions\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn there_is_a_man_page_of_the_program_and_of_each_command() {
    // A hyphen that is to stay one is escaped there.
    let page = answer(&["man"]).replace("\\-", "-");
    assert!(page.contains(".TH backfiller 1"), "{page}");
    assert!(page.contains("BACKFILLER_CONSUMER"), "{page}");
    for command in COMMANDS {
        assert!(page.contains(command), "{command}");
        let page = answer(&["man", command]);
        assert!(
            page.contains(&format!(".TH backfiller-{command} 1")),
            "{page}"
        );
        assert!(page.contains("\n.SH EXAMPLES\n"), "{page}");
    }
}

#[test]
fn a_man_page_has_the_sections_that_one_looks_for() {
    let source = format!("\"backfiller {}\"", env!("CARGO_PKG_VERSION"));
    for names in [
        &[][..],
        &["enqueue"],
        &["dead-letters"],
        &["dead-letters", "list"],
    ] {
        let page = answer(&[&["man"], names].concat());
        let title = page.lines().find(|line| line.starts_with(".TH "));
        let title = title.expect("a title");
        let name = [&["backfiller"], names].concat().join("-");
        assert!(title.starts_with(&format!(".TH {name} 1 ")), "{title}");
        assert!(title.contains(&source), "{title}");
        // Each example is a line of its own.
        let mut examples = page.lines().skip_while(|line| *line != ".SH EXAMPLES");
        let examples: Vec<_> = examples
            .by_ref()
            .skip(1)
            .take_while(|line| !line.starts_with(".SH"))
            .collect();
        assert_eq!(examples.first(), Some(&".nf"), "{page}");
        assert_eq!(examples.last(), Some(&".fi"), "{page}");
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n"), "{page}");
        assert!(!page.contains(".SH EXTRA"), "{page}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(binary())
        .arg("man")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the backfiller binary starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}
