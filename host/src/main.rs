//! The program `stepwell`.

fn main() -> std::process::ExitCode {
    stepwell::plugins::compile_worker_main(4 << 30, 120)
}
