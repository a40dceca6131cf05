//! `shadernet completions` and `shadernet man`: what a package installs besides the program, from the same definitions as
//! `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory, ValueHint};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use shadernet::error::{Error, Result};
use shadernet::files;

use super::{Cli, Output};

const COMPLETIONS: &str = "\
Examples:
  shadernet completions bash > ~/.local/share/bash-completion/completions/shadernet
  shadernet completions zsh > ~/.zfunc/_shadernet      # any folder of $fpath
  shadernet completions fish > ~/.config/fish/completions/shadernet.fish";

#[derive(Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// Shell that the script is for
    shell: Shell,
}

const MAN: &str = "\
Examples:
  shadernet man | man -l -                     # read it
  shadernet man --out /usr/local/share/man/man1";

#[derive(Args)]
#[command(after_help = MAN)]
pub(crate) struct ManArgs {
    /// Folder for shadernet.1, shadernet-train.1 and so on; existing pages are replaced
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The whole command line, as clap knows it once it is built.
fn program() -> Command {
    let program = Cli::command().disable_help_subcommand(true);
    let mut program =
        with_hints(program.subcommand_help_heading("COMMANDS").subcommand_value_name("COMMAND"));
    program.build();
    program
}

/// Where only a folder fits, only folders are offered.
fn with_hints(command: Command) -> Command {
    let is_folder = |names: &[clap::builder::Str]| names.iter().any(|name| name == "DIR");
    command
        .mut_args(|arg| match arg.get_value_names().is_some_and(is_folder) {
            true => arg.value_hint(ValueHint::DirPath),
            false => arg,
        })
        .mut_subcommands(with_hints)
}

/// Prints a shell's completions.
pub(crate) fn completions(args: &CompletionsArgs, output: &mut Output) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program(), "shadernet", &mut script);
    print(&script, output);
    Ok(ExitCode::SUCCESS)
}

/// Prints the page of the program, or writes all pages.
pub(crate) fn man(args: &ManArgs, output: &mut Output) -> Result<ExitCode> {
    let program = program();
    let Some(folder) = &args.out else {
        print(&page(&program), output);
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let commands: Vec<_> = std::iter::once(&program).chain(program.get_subcommands()).collect();
    let path = |command: &&Command| folder.join(Man::new((*command).clone()).get_filename());
    let paths: Vec<PathBuf> = commands.iter().map(path).collect();
    // What a link leads to is no manual page of ours.
    if let Some(link) = paths.iter().find(|path| path.is_symlink()) {
        let message =
            format!("{}: this is a link to another file; remove it, or name another folder", link.display());
        return Err(Error::Usage(message));
    }
    files::check_outputs(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>(), &[], true)?;
    for (command, path) in commands.into_iter().zip(&paths) {
        files::write_atomically(path, &page(command))?;
        output.line(format_args!("{}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The manual page of the program or of one of its commands.
fn page(command: &Command) -> Vec<u8> {
    let is_program = command.has_subcommands();
    let man = Man::new(command.clone())
        // Not the empty default, which is written as nothing and shifts what follows.
        .date(" ")
        .source(concat!("shadernet ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut text = Vec::new();
    let mut write = || {
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        if is_program {
            man.render_subcommands_section(&mut text)?;
        }
        // Line for line, where clap_mangen would fill a paragraph with the commands.
        let mut more = Roff::default();
        if let Some(help) = command.get_after_help().map(ToString::to_string) {
            let (examples, rest) = help.split_once("\n\n").unwrap_or((&help, ""));
            more.control("SH", ["EXAMPLES"]).control("nf", []);
            examples.lines().skip(1).for_each(|line| _ = more.text([roman(line.trim_start())]));
            more.control("fi", []);
            if !rest.is_empty() {
                more.control("PP", []).text([roman(rest)]);
            }
        }
        if !is_program {
            more.control("SH", ["SEE ALSO"]).text([roman("shadernet(1)")]);
        }
        more.to_writer(&mut text)
    };
    write().expect("a vector takes all");
    text
}

fn print(text: &[u8], output: &mut Output) {
    output.line(format_args!("{}", String::from_utf8_lossy(text).trim_end()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a help text that begin with the program's name, without comments and what a shell does with the output.
    fn examples(help: &str) -> Vec<Vec<&str>> {
        let lines = help.lines().filter(|line| line.starts_with("  shadernet "));
        let ends = |word: &&str| !["#", ">", "|"].contains(word);
        lines.map(|line| line.split_whitespace().take_while(ends).collect()).collect()
    }

    #[test]
    fn the_examples_of_the_help_texts_are_command_lines() {
        let program = program();
        let mut with_examples = Vec::new();
        for command in std::iter::once(&program).chain(program.get_subcommands()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let mentioned = format!("shadernet {}", command.get_name());
            for line in examples(&help) {
                if let Err(error) = Cli::command().try_get_matches_from(&line) {
                    panic!("{}: {error}", line.join(" "));
                }
                assert!(
                    command.has_subcommands() || line.join(" ").starts_with(&mentioned),
                    "{line:?} stands in the help of {}",
                    command.get_name()
                );
                with_examples.push(command.get_name());
            }
        }
        for name in ["shadernet", "train", "classify", "export", "experiments", "new", "data"] {
            assert!(with_examples.contains(&name), "{name} has no examples");
        }
        assert_eq!(
            examples("  shadernet train --epoch 3 # x\nshadernet"),
            [["shadernet", "train", "--epoch", "3"]]
        );
        assert!(Cli::command().try_get_matches_from(["shadernet", "train", "--epoch", "3"]).is_err());
    }

    #[test]
    fn every_command_and_option_is_in_every_completion_and_page() {
        let program = program();
        let scripts = clap::ValueEnum::value_variants().iter().map(|&shell: &Shell| {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program.clone(), "shadernet", &mut script);
            (shell.to_string(), String::from_utf8(script).unwrap())
        });
        let scripts: Vec<_> = scripts.collect();
        let top = String::from_utf8(page(&program)).unwrap();
        assert!(program.get_subcommands().count() >= 14);
        for command in program.get_subcommands() {
            let name = command.get_name();
            assert!(top.contains(&format!("shadernet\\-{name}(1)")), "{name} is not in the page");
            let own = String::from_utf8(page(command)).unwrap();
            assert!(own.contains(".SH SYNOPSIS") && own.contains(&format!("shadernet {name}")), "{own}");
            let options =
                command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long());
            for option in options {
                let escaped = format!("\\-\\-{}", option.replace('-', "\\-"));
                assert!(own.contains(&escaped), "--{option} is not in the page of {name}");
                for (shell, script) in &scripts {
                    assert!(script.contains(option) && script.contains(name), "{shell}: {name} --{option}");
                }
            }
        }
    }
}
