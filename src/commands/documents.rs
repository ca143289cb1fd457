//! What the program prints about itself: completions and man pages, made from the command line's own description, so they cannot
//! differ from what it takes; and what it is run and watched with: a systemd unit, a Grafana dashboard and alert rules, which stand in
//! `documents/`. Pinned by `tests/command_line.rs` and `tests/assets.rs`.

pub(super) mod man;
pub(super) mod unit;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::CommandLine;

/// Examples of `completions`.
pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  backfiller completions bash > ~/.local/share/bash-completion/completions/backfiller
  backfiller completions zsh > ~/.zfunc/_backfiller
  backfiller completions fish > ~/.config/fish/completions/backfiller.fish";

/// Examples of `man`.
pub(super) const MAN_EXAMPLES: &str = "\
Examples:
  backfiller man | man -l -
  backfiller man enqueue > ~/.local/share/man/man1/backfiller-enqueue.1";

/// Examples of `grafana-dashboard`.
pub(super) const DASHBOARD_EXAMPLES: &str = "\
Examples:
  backfiller grafana-dashboard > backfiller.json
  (in Grafana: Dashboards, New, Import; the Prometheus that asks the instances is chosen at its top)";

/// Examples of `alert-rules`.
pub(super) const ALERTS_EXAMPLES: &str = "\
Examples:
  backfiller alert-rules > /etc/prometheus/rules/backfiller.yml
  backfiller alert-rules | promtool check rules";

/// The dashboard, as Grafana imports it: over the metrics of `/metrics`, of all instances or of chosen ones.
pub(super) const DASHBOARD: &str = include_str!("documents/dashboard.json");

/// The alert rules, as Prometheus reads them.
pub(super) const ALERTS: &str = include_str!("documents/alerts.yml");

/// The completions for a shell.
pub(super) fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    let mut command = CommandLine::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}
