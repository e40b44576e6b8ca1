//! A Unix socket to listen on: its path, its mode, its owner.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// What goes into `sun_path` of `struct sockaddr_un`, the final NUL not counted.
const LONGEST_PATH: usize = 107;

/// The files of a listener's Unix sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UnixSocket {
    /// Who may connect.
    #[serde(rename = "unix_mode")]
    pub mode: Mode,
    /// Whose the file is.
    #[serde(rename = "unix_owner")]
    pub owner: Owner,
}

/// Permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Default for Mode {
    /// The process's own user and group. To connect takes the right to write.
    fn default() -> Self {
        Self(0o660)
    }
}

impl FromStr for Mode {
    type Err = String;

    /// The leading zero is wanted: TOML's `0o660` comes here as `432`, and `660` would be anybody's
    /// guess.
    fn from_str(text: &str) -> Result<Self, String> {
        let octal = text.len() == 4 && text.starts_with('0');
        let digits = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(text, 8) {
            Ok(bits) if octal && digits => Ok(Self(bits)),
            _ => {
                Err("expected four octal digits from 0000 to 0777 as text, such as \"0660\"".into())
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A user and a group, each by name or number; `None` is the process's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: Option<String>,
    /// The group.
    pub group: Option<String>,
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |name: &str| {
            let printable = |c: char| !c.is_control() && !c.is_whitespace() && c != ':';
            !name.is_empty() && name.chars().all(printable)
        };
        let own = |name: &str| legal(name).then(|| Some(name.to_owned()));
        let named = match text.split_once(':') {
            None if text.is_empty() => Some((None, None)),
            None => own(text).map(|user| (user, None)),
            Some(("", group)) => own(group).map(|group| (None, group)),
            Some((user, group)) => own(user).zip(own(group)),
        };
        named.map(|(user, group)| Self { user, group }).ok_or_else(|| {
            "expected user, user:group or :group, by name or number, or nothing for the \
             process's own"
                .into()
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.as_deref().unwrap_or_default())?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The path behind `unix:`.
///
/// Not every path: lists of addresses are separated by commas and spaces, here and in the ready line.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    let separates = |c: char| c.is_control() || c.is_whitespace() || c == ',';
    match text {
        abstract_ if abstract_.starts_with('@') => Err("expected a path after `unix:`\n\
             an abstract socket has no mode and no owner: whoever is in the network namespace \
             could connect"
            .into()),
        relative if !relative.starts_with('/') => {
            Err("expected an absolute path, such as unix:/run/tidegate/app.sock".into())
        }
        long if long.len() > LONGEST_PATH => Err(format!(
            "expected a path of {LONGEST_PATH} bytes at the most, and this one has {}\n\
             an address of the kernel holds no more (sun_path): choose a shorter folder",
            long.len()
        )),
        odd if odd.contains(separates) => {
            Err("expected a path without white space and commas".into())
        }
        path => Ok(path.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_four_octal_digits() {
        assert_eq!("0660".parse(), Ok(Mode(0o660)));
        assert_eq!(Mode(0o7).to_string(), "0007");
        for wrong in ["660", "432", "0o660", "00660", "1777", "0680", "+660", "rw-rw----", ""] {
            assert!(wrong.parse::<Mode>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn an_owner_is_a_user_a_group_or_both() {
        for fine in ["", "app", "app:db", ":db", "1000:1000"] {
            assert_eq!(fine.parse::<Owner>().unwrap().to_string(), fine);
        }
        for wrong in [":", "app:", "a:b:c", "two words"] {
            assert!(wrong.parse::<Owner>().is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_path_is_absolute_and_fits_into_an_address() {
        assert_eq!(path("/run/app.sock"), Ok("/run/app.sock".into()));
        assert!(path(&format!("/{}", "x".repeat(106))).is_ok());
        assert!(path(&format!("/{}", "x".repeat(107))).unwrap_err().contains("has 108\n"));
        for wrong in ["", "app.sock", "@app", "/run/my app.sock", "/run/a,b"] {
            assert!(path(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
