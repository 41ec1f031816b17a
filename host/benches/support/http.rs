//! A minimal HTTP client for benchmarks: one persistent connection, requests one after the other.
//! The package has no asynchronous client, and a thread for each of 64 clients would distort the
//! figures on two cores.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::AnyError;

/// A client with one connection.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Connects. Must be called within a runtime.
    pub fn connect(address: SocketAddr) -> Result<Self, AnyError> {
        let stream = std::net::TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: TcpStream::from_std(stream)?,
            received: Vec::with_capacity(4_096),
        })
    }

    /// Posts JSON and returns the response's JSON.
    ///
    /// # Errors
    /// Fails for any status but 2xx.
    pub async fn post(&mut self, path: &str, token: &str, body: &str) -> Result<Value, AnyError> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        Ok(serde_json::from_slice(self.exchange(&request).await?)?)
    }

    /// Gets a resource and returns the body.
    ///
    /// # Errors
    /// Fails for any status but 2xx.
    pub async fn get(&mut self, path: &str, token: &str) -> Result<&[u8], AnyError> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        self.exchange(&request).await
    }

    async fn exchange(&mut self, request: &str) -> Result<&[u8], AnyError> {
        self.stream.write_all(request.as_bytes()).await?;
        self.received.clear();
        let start = loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err("the server closed the connection".into());
            }
            let Some(end) = self
                .received
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            else {
                continue;
            };
            let (head, body) = self.received.split_at(end + 4);
            let head = std::str::from_utf8(head)?.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.ok_or("the answer has no length")?.trim().parse()?;
            if body.len() >= length {
                if !head.starts_with("http/1.1 2") {
                    return Err(format!("{head}{}", String::from_utf8_lossy(body)).into());
                }
                break end + 4;
            }
        };
        Ok(self.received.get(start..).unwrap_or_default())
    }
}
