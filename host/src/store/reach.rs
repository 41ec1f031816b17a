//! The first connection to a database, and errors that name the remedy.
//!
//! A pool that cannot connect tries again silently until its timeout, and then reports only the
//! timeout. So the first connection to a PostgreSQL server is made without the pool.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::StoreError;

/// SQLSTATE codes of a server that starts, stops or is temporarily full. The pool waits for such a
/// server.
const TRANSIENT: [&str; 4] = ["53300", "57P01", "57P02", "57P03"];

/// Connects to a PostgreSQL server once.
///
/// # Errors
/// [`StoreError::Settings`] at once, with the cause of the refusal and the remedy.
pub(super) async fn reach(options: &PgConnectOptions, timeout: Duration) -> Result<(), StoreError> {
    let connected = tokio::time::timeout(timeout, options.connect()).await;
    let error = match connected {
        Ok(Ok(connection)) => {
            close(connection).await;
            return Ok(());
        }
        Ok(Err(error)) => error,
        Err(_) => {
            return Err(StoreError::Settings(format!(
                "PostgreSQL at {} does not answer: is a firewall between, and is database.url right?",
                place(options)
            )));
        }
    };
    match refusal(options, &error) {
        Some(sentence) => Err(StoreError::Settings(sentence)),
        None => Ok(()),
    }
}

/// Closes the connection. Ignores errors, because the server notices a dropped connection too.
async fn close(connection: PgConnection) {
    let _ = connection.close().await;
}

fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// Returns the reason why the server cannot be used; `None` if the pool should wait for it.
fn refusal(options: &PgConnectOptions, error: &sqlx::Error) -> Option<String> {
    use std::io::ErrorKind;
    let place = place(options);
    Some(match error {
        sqlx::Error::Database(problem) => {
            let code = problem.code().unwrap_or_default();
            let user = options.get_username();
            match code.as_ref() {
                code if TRANSIENT.contains(&code) => return None,
                "28P01" | "28000" => format!(
                    "PostgreSQL at {place} does not let the user '{user}' in ({}): look at the user and the password in \
                     database.url",
                    problem.message()
                ),
                "3D000" => {
                    let database = options.get_database().unwrap_or(user);
                    format!(
                        "PostgreSQL at {place} has no database '{database}': create it (`createdb {database}`), or name \
                         another one in database.url"
                    )
                }
                _ => format!(
                    "PostgreSQL at {place} refuses the connection: {}",
                    problem.message()
                ),
            }
        }
        sqlx::Error::Io(problem) => match problem.kind() {
            ErrorKind::ConnectionRefused => format!(
                "nothing answers at {place}: start PostgreSQL there, or look at the host and the port in database.url"
            ),
            ErrorKind::NotFound => {
                format!("there is no socket {place}: is PostgreSQL running there?")
            }
            _ => format!(
                "PostgreSQL at {place} cannot be reached ({}): look at the host and the port in database.url",
                without_number(&problem.to_string())
            ),
        },
        other => format!("PostgreSQL at {place} cannot be used: {other}"),
    })
}

/// Returns the text of a database's error for [`StoreError::Unavailable`].
pub(super) fn plainly(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::PoolTimedOut => {
            "no connection to it became free within database.acquire_timeout".to_owned()
        }
        sqlx::Error::Database(problem) => problem.message().to_owned(),
        sqlx::Error::Io(problem) => without_number(&problem.to_string()).to_owned(),
        other => other.to_string(),
    }
}

/// Returns the text of an error of the operating system without its number.
fn without_number(text: &str) -> &str {
    text.rsplit_once(" (os error ")
        .map_or(text, |(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("has an address").port();
        drop(listener);
        let options = PgConnectOptions::new().host("127.0.0.1").port(port);
        let reached = reach(&options, Duration::from_secs(60)).await;
        let error = reached.expect_err("nobody is there").to_string();
        assert!(
            error.starts_with(&format!(
                "nothing answers at 127.0.0.1:{port}: start PostgreSQL"
            )),
            "{error}"
        );
    }

    #[test]
    fn a_pool_without_a_free_connection_names_its_setting() {
        let text = plainly(&sqlx::Error::PoolTimedOut);
        assert!(text.contains("database.acquire_timeout"), "{text}");
    }
}
