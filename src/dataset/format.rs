//! What kind of file one is, by its first bytes.

/// The kinds of pictures that are read, for a message.
pub(super) const READ: &str = "PNG, JPEG, WebP, GIF, BMP or TIFF";

/// The kinds of files that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// By the first bytes.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        Some(match bytes {
            _ if starts(b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if starts(b"\xff\xd8\xff") => Self::Jpeg,
            _ if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Self::WebP,
            _ if starts(b"GIF87a") || starts(b"GIF89a") => Self::Gif,
            // Any text may begin with these two letters; the size of the next header is small.
            [b'B', b'M', ..] if bytes.get(15..18) == Some(&[0; 3]) => Self::Bmp,
            _ if starts(b"II*\0") || starts(b"MM\0*") => Self::Tiff,
            _ => return None,
        })
    }

    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

/// What a file is that is no picture of a kind that is read, and what would help.
pub(super) fn what_else(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return format!("the file is empty; expected a {READ} image");
    }
    if super::is_lfs_pointer(bytes) {
        return super::LFS_POINTER.into();
    }
    let brand = bytes.get(8..12);
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim_start().to_ascii_lowercase();
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let format = match brand {
        Some(brand) if bytes[4..8] == *b"ftyp" => match brand {
            b"avif" | b"avis" => "an AVIF image",
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => "a HEIC image",
            _ => "a video",
        },
        _ if starts(b"\xff\x0a") || starts(b"\0\0\0\x0cJXL ") => "a JPEG XL image",
        _ if starts(b"\0\0\0\x0cjP  ") => "a JPEG 2000 image",
        _ if starts(b"\0\0\x01\0") => "an icon (ICO)",
        _ if starts(b"8BPS") => "a Photoshop image",
        _ if starts(b"%PDF") => "a PDF document",
        _ if text.contains("<svg") => "an SVG drawing",
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            return format!("this is an HTML page, perhaps from a failed download; expected a {READ} image");
        }
        _ if matches!(bytes, [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r', ..]) => "a PNM image",
        _ => return format!("this is not an image; expected a {READ} image"),
    };
    format!("this is {format}, whatever its name says; convert it to PNG or JPEG")
}
