//! Where images came from.

/// Names of the files that a list of images was read from, in its order; none for images that are not files of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileNames {
    /// All names, one after another: a `String` for each would take more memory than a name has letters.
    text: String,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl FileNames {
    /// Adds the name of the next image's file.
    pub fn push(&mut self, name: &str) {
        self.text += name;
        self.ends.push(self.text.len());
    }

    /// The name of the file of an image.
    pub fn get(&self, image: usize) -> Option<&str> {
        let &end = self.ends.get(image)?;
        let start = if image == 0 { 0 } else { self.ends[image - 1] };
        Some(&self.text[start..end])
    }

    /// True if no names are known.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The names of some of the images.
    pub(super) fn of(&self, images: impl Iterator<Item = usize>) -> Self {
        let mut some = Self::default();
        images.filter_map(|image| self.get(image)).for_each(|name| some.push(name));
        some
    }
}

impl<S: AsRef<str>> FromIterator<S> for FileNames {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut all = Self::default();
        names.into_iter().for_each(|name| all.push(name.as_ref()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_has_its_own_name() {
        let names: FileNames = ["cat/1.png", "", "数字/é.jpg"].into_iter().collect();
        assert_eq!(
            [0, 1, 2, 3].map(|image| names.get(image)),
            [Some("cat/1.png"), Some(""), Some("数字/é.jpg"), None]
        );
        assert_eq!(names.of([2, 0].into_iter()), ["数字/é.jpg", "cat/1.png"].into_iter().collect());
        assert!(FileNames::default().is_empty() && FileNames::default().get(0).is_none());
    }
}
