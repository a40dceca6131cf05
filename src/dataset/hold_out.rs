//! Which images are held out of the training part, to judge a network without looking at the test part.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Images;
use crate::error::{Error, Result};
use crate::rng::{self, Permutation, Stream};

/// How many training images take the place of the test part. Which ones is decided by their number and labels alone,
/// never by the seed of a run: nets of all seeds are then judged on the same images and can be compared.
///
/// As text and in files it is a number: a whole one is a number of images, one below 1 a share.
///
/// # Examples
/// ```
/// use shadernet::dataset::HoldOut;
///
/// assert_eq!("500".parse(), Ok(HoldOut::Count(500)));
/// assert_eq!("0.1".parse(), Ok(HoldOut::Share(0.1)));
/// assert!("1.5".parse::<HoldOut>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HoldOut {
    /// This many, drawn from all images; 0 for none.
    Count(usize),
    /// This share of each class, above 0 and below 1: at least one image of every class that has two, and never all.
    Share(f64),
}

impl HoldOut {
    /// None: there is a real test part.
    pub const NONE: Self = Self::Count(0);

    /// True if none are held out.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl From<usize> for HoldOut {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for HoldOut {
    fn from(share: f64) -> Self {
        Self::Share(share)
    }
}

impl fmt::Display for HoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{share}"),
        }
    }
}

impl FromStr for HoldOut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.parse::<usize>(), text.parse::<f64>()) {
            (Ok(count), _) if count > 0 => Ok(Self::Count(count)),
            (_, Ok(share)) if share > 0.0 && share < 1.0 => Ok(Self::Share(share)),
            _ => {
                Err("expected a number of images, such as 500, or a share of each class, such as 0.1".into())
            }
        }
    }
}

impl Images {
    /// Splits the images that are held out off the others: (the rest, the held-out images), each in the old order.
    ///
    /// # Errors
    /// When one of the two would be empty.
    ///
    /// # Examples
    /// ```
    /// use shadernet::Images;
    ///
    /// // 20 images of class 0 and 10 of class 1, each of one pixel.
    /// let labels = [vec![0; 20], vec![1; 10]].concat();
    /// let (train, held_out) = Images::new([1, 1, 1], vec![0; 30], labels)?.hold_out(0.1)?;
    /// assert_eq!((train.count, held_out.labels), (27, vec![0, 0, 1]));
    /// # Ok::<(), shadernet::Error>(())
    /// ```
    pub fn hold_out(&self, which: impl Into<HoldOut>) -> Result<(Self, Self)> {
        match which.into() {
            HoldOut::NONE => {
                Err(Error::Usage("cannot hold out 0 images: at least one is needed for testing".into()))
            }
            HoldOut::Count(count) => self.split(count, 0),
            HoldOut::Share(share) => self.part_by(&self.share_of_each_class(share)?),
        }
    }

    /// Whether each image belongs to a share of its class that is drawn at random.
    fn share_of_each_class(&self, share: f64) -> Result<Vec<bool>> {
        let refused =
            |why: &str| Error::Usage(format!("cannot hold out {share} of {} images: {why}", self.count));
        if !(share > 0.0 && share < 1.0) {
            return Err(refused("a share is above 0 and below 1"));
        }
        let mut left: [usize; 256] = [0; 256];
        self.labels.iter().for_each(|&label| left[usize::from(label)] += 1);
        for left in &mut left {
            let wanted = (*left as f64 * share).round() as usize;
            *left = wanted.max(1).min(left.saturating_sub(1));
        }
        if left.iter().all(|&left| left == 0) {
            return Err(refused("no class has two images"));
        }
        let mut chosen = vec![false; self.count];
        let order = Permutation::new(self.count as u32, rng::key(0, Stream::Split), 0);
        for image in (0..self.count as u32).map(|i| order.get(i) as usize) {
            let left = &mut left[usize::from(self.labels[image])];
            chosen[image] = *left > 0;
            *left = left.saturating_sub(1);
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(counts: &[usize]) -> Images {
        let labels: Vec<u8> =
            counts.iter().enumerate().flat_map(|(label, &count)| vec![label as u8; count]).collect();
        let pixels = (0..labels.len()).map(|image| image as u8).collect();
        Images::new([1, 1, 1], pixels, labels).unwrap()
    }

    fn counts(images: &Images) -> Vec<usize> {
        (0..4).map(|label| images.labels.iter().filter(|&&other| other == label).count()).collect()
    }

    #[test]
    fn a_share_is_of_each_class_and_leaves_some_of_each() {
        let all = images(&[100, 30, 2, 1]);
        let (rest, held) = all.hold_out(0.1).unwrap();
        assert_eq!(counts(&held), [10, 3, 1, 0]);
        assert_eq!(counts(&rest), [90, 27, 1, 1]);
        let mut together = [&rest.pixels[..], &held.pixels[..]].concat();
        together.sort_unstable();
        assert_eq!(together, all.pixels, "each image is in one part");
        assert!(held.pixels.windows(2).all(|pair| pair[0] < pair[1]), "in the old order");
        // Drawn, not the first ones of each class.
        assert_ne!(held.pixels[..10], all.pixels[..10]);
        assert_eq!(all.hold_out(0.1).unwrap().1, held);
        assert_eq!(counts(&all.hold_out(0.999).unwrap().0), [1, 1, 1, 1]);
    }

    /// Those of earlier versions and of experiments.
    #[test]
    fn a_number_is_drawn_from_all_images_as_ever() {
        let all = images(&[100, 30, 2, 1]);
        assert_eq!(all.hold_out(20).unwrap(), all.split(20, 0).unwrap());
    }

    #[test]
    fn what_leaves_nothing_to_train_or_to_judge_on_is_refused() {
        for (which, words) in [
            (HoldOut::Count(0), "cannot hold out 0 images: at least one is needed"),
            (HoldOut::Count(4), "cannot hold out 4 of 4 images: at least one must remain"),
            (HoldOut::Share(1.0), "a share is above 0 and below 1"),
            (HoldOut::Share(0.5), "no class has two images"),
        ] {
            let message = images(&[1, 1, 1, 1]).hold_out(which).unwrap_err().to_string();
            assert!(message.contains(words), "{which}: {message}");
        }
    }

    #[test]
    fn it_is_a_number_in_files() {
        for (which, text) in
            [(HoldOut::Count(12), "12"), (HoldOut::Share(0.25), "0.25"), (HoldOut::NONE, "0")]
        {
            assert_eq!(serde_json::to_string(&which).unwrap(), text);
            assert_eq!(serde_json::from_str::<HoldOut>(text).unwrap(), which);
        }
        for text in ["0", "1.0", "-3", "", "ten", "nan", "0.0"] {
            assert!(text.parse::<HoldOut>().is_err(), "{text}");
        }
    }
}
