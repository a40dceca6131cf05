//! Names of classes, which are compared as people read them.

use std::borrow::Cow;

/// A name in Unicode's composed form: some systems store `é` as one character, some as two.
#[cfg(feature = "pictures")]
pub(super) fn normal(name: &str) -> Cow<'_, str> {
    use unicode_normalization::UnicodeNormalization;
    if name.is_ascii() { name.into() } else { name.nfc().collect() }
}

/// Without pictures no names come from a file system.
#[cfg(not(feature = "pictures"))]
pub(super) fn normal(name: &str) -> Cow<'_, str> {
    name.into()
}

/// True for two names that are read the same.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a == b || normal(a) == normal(b)
}

/// The place of a class among `names`: the one of this name or, if this is a number, the only one of its value.
pub(crate) fn class_named(name: &str, names: &[String]) -> Option<usize> {
    fn value(name: &str) -> Option<u64> {
        name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
    }
    names.iter().position(|other| same_name(other, name)).or_else(|| {
        let wanted = value(name)?;
        let mut same = names.iter().enumerate().filter(|(_, other)| value(other) == Some(wanted));
        let (place, _) = same.next()?;
        same.next().is_none().then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_as_they_are_read() {
        let names = ["café", "01", "2", "02"].map(str::to_owned);
        assert_eq!(class_named("1", &names), Some(1));
        assert_eq!((class_named("2", &names), class_named("002", &names)), (Some(2), None));
        assert_eq!(class_named("cafe", &names), None);
        assert_eq!(class_named("café", &names), Some(0));
        #[cfg(feature = "pictures")]
        assert!(class_named("cafe\u{301}", &names) == Some(0) && same_name("\u{212b}", "A\u{30a}"));
    }
}
