//! Words of a command for pasting into a shell.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt::Write;

use crate::error::shown;

/// A word as a POSIX shell reads it, quoted if necessary. A path that begins like an option gets a `./` prefix. Bytes
/// that are unprintable or not Unicode become octal escapes in `$'...'`, which POSIX has had since 2024 and shells
/// for longer.
pub fn quoted<W: AsRef<OsStr> + ?Sized>(word: &W) -> Cow<'_, str> {
    let word = word.as_ref();
    if word.as_encoded_bytes().starts_with(b"-") {
        let mut path = OsStr::new("./").to_owned();
        path.push(word);
        return quoted(&path).into_owned().into();
    }
    let Some(text) = word.to_str().filter(|text| can_be_shown(text)) else {
        return numbered(word).into();
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''")).into()
}

fn can_be_shown(text: &str) -> bool {
    matches!(shown(text), Cow::Borrowed(_))
}

fn numbered(word: &OsStr) -> String {
    let mut text = String::from("$'");
    let number = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            write!(text, "\\{byte:03o}").expect("a string takes all");
        }
    };
    for chunk in word.as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            let mut buffer = [0; 4];
            match &*c.encode_utf8(&mut buffer) {
                c if matches!(c, "'" | "\\") || !can_be_shown(c) => number(&mut text, c.as_bytes()),
                c => text.push_str(c),
            }
        }
        number(&mut text, chunk.invalid());
    }
    text + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell_where_they_need_it() {
        for (word, quotes) in [
            ("runs/seed-1", "runs/seed-1"),
            ("my pics", "'my pics'"),
            ("it's", r"'it'\''s'"),
            ("$(rm)", "'$(rm)'"),
            ("", "''"),
            ("~", "'~'"),
            ("-x", "./-x"),
            ("-- x", "'./-- x'"),
            ("a\nb'\\", r"$'a\012b\047\134'"),
            ("\u{202e}é1", r"$'\342\200\256é1'"),
            ("-\u{1b}", r"$'./-\033'"),
        ] {
            assert_eq!(quoted(word), quotes);
            assert_eq!(shown(&quoted(word)), quotes);
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert_eq!(quoted(OsStr::from_bytes(b"caf\xe9 1")), r"$'caf\351 1'");
        }
    }
}
