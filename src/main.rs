//! Arguments -> Config -> the subcommand, or `app::run` -> exit code.

fn main() -> std::process::ExitCode {
    sipbridge::cli::main()
}
