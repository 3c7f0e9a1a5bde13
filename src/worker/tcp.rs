//! Options of every TCP socket towards a worker, whoever dialled.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Idle time before the kernel probes a silent connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Time between the kernel's probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sent data may stay unacknowledged before the connection fails.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);
/// Send buffer asked of the kernel, which doubles it. Left to itself it grows
/// to 4 MiB: minutes of audio, in which a worker that reads nothing would not
/// be noticed. This holds about 3 s, enough for a round trip of a second.
const SEND_BUFFER_BYTES: usize = 32 * 1024;

/// Sets all options. Nagle's algorithm is off before the first byte is sent.
///
/// # Errors
/// When the system refuses an option, as it does on a dead socket.
pub(super) fn tune<'socket>(socket: impl Into<SockRef<'socket>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}
