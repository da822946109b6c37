//! `virga settle`: wait until the chip holds all that the kernel knows.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::client::GetError;
use super::{Context, print};

/// How long.
#[derive(Args, Debug)]
pub struct Options {
    /// Seconds to wait at most
    #[arg(long, value_name = "T", default_value = "30", value_parser = seconds)]
    timeout: f64,
}

fn seconds(s: &str) -> Result<f64, String> {
    let s = s.strip_suffix('s').unwrap_or(s);
    match s.parse::<f64>() {
        Ok(t) if (0.0..=3600.0).contains(&t) => Ok(t),
        _ => Err("a number of seconds from 0 to 3600 is wanted".into()),
    }
}

/// Exits non-zero when the time is over, and says what is waited for.
///
/// # Errors
/// One sentence.
pub fn run(cx: &Context, o: &Options) -> Result<ExitCode, String> {
    let begun = Instant::now();
    let limit = Duration::from_secs_f64(o.timeout);
    let a = loop {
        let left = limit.saturating_sub(begun.elapsed());
        let url = format!("/v1/settle?timeout={:.3}", left.as_secs_f64());
        // A daemon that is only just starting is waited for as well.
        match cx.client.get(&url, left + Duration::from_secs(10)) {
            Ok(a) => break a,
            Err(GetError::Absent(_)) if !left.is_zero() => std::thread::sleep(Duration::from_millis(50).min(left)),
            Err(e) => return Err(e.into()),
        }
    };
    if a.status != 200 {
        return Err(a.error());
    }
    if cx.json {
        print(&format!("{}\n", a.body))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        assert_eq!((seconds("2.5"), seconds("10s")), (Ok(2.5), Ok(10.0)));
        assert!(["", "-1", "nan", "inf", "1e9", "x"].iter().all(|s| seconds(s).is_err()));
    }
}
