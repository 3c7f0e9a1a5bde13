//! Arguments -> Config -> `app::run` -> exit code.

fn main() -> std::process::ExitCode {
    sipbridge::app::main()
}
