# Daily commands. Each is one line of cargo, so that `just` is a convenience and not a requirement.

# Lists the commands.
default:
    @just --list

# Builds the example plugins and the test guest into components.
guests:
    cargo xtask guests

# Format, lints, documentation, dependency policy.
check:
    cargo xtask checks

# Every test. Arguments go to `cargo test`: just test --test tidy
test *arguments:
    cargo xtask test -- {{arguments}}

# The benchmarks behind the figures in the README.
bench *arguments:
    cargo bench --workspace {{arguments}}

# A host with the example plugins and workflows, to try things out.
demo *arguments:
    cargo run --release -- demo {{arguments}}

# A host. Arguments go to `stepwell serve`: just serve --config stepwell.toml
serve *arguments:
    cargo run --release -- serve {{arguments}}
