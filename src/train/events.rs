//! A run's figures as event files, which TensorBoard shows as curves.
//!
//! A file is a list of records as TensorFlow writes them (length, checksum, message, checksum), whose messages are protocol
//! buffers: `tensorflow/core/util/event.proto` and `tensorflow/core/framework/summary.proto`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::{EpochMetrics, Run};
use crate::error::{Error, Result};

/// What the names of event files begin with; TensorBoard finds them by it.
const PREFIX: &str = "events.out.tfevents.";
/// Folder in that of a run with several nets, which has a folder for each: to TensorBoard, a folder is a run.
const FOLDER: &str = "tensorboard";
/// The version of the format, in the first message of a file.
const FILE_VERSION: &str = "brain.Event:2";

/// What happened at a time.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// Figures of a step.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// A figure. Those of one name make a curve.
#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The event files of a run: one for each net, to which every epoch adds its figures.
///
/// # Examples
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use shadernet::train::{EpochMetrics, Events};
/// use shadernet::{Device, Model, Run, TrainingData};
///
/// let model = Model::seed();
/// let data = TrainingData::load("data/mnist", model.input)?;
/// let mut run = Run::builder(model, data).device(Device::cpu()).start()?;
/// let mut events = Events::open(&run)?;
/// run.train(&mut |rows: &[EpochMetrics]| match events.epoch(rows) {
///     Ok(()) => ControlFlow::Continue(()),
///     Err(_) => ControlFlow::Break(()),
/// })?;
/// # Ok::<(), shadernet::Error>(())
/// ```
#[derive(Debug)]
pub struct Events {
    files: Vec<(PathBuf, File)>,
    /// What the figures of a test are called: of the test set, or of images that were held out.
    judged_on: &'static str,
}

impl Events {
    /// Begins a file for each net in the folder of a run. Epochs that the run has behind it are written at once, unless
    /// there are event files that have them.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn open(run: &Run) -> Result<Self> {
        let (settings, folder) = (&run.settings, run.folder.path());
        let name = |net| settings.model_file(net).trim_end_matches(".safetensors").to_owned();
        let folders: Vec<PathBuf> = match settings.has_several() {
            true => settings.replicas.iter().map(|net| folder.join(FOLDER).join(name(net))).collect(),
            false => vec![folder.to_owned()],
        };
        run.folder.check()?;
        let is_new = !folders.iter().any(|folder| holds_events(folder));
        let files = folders.iter().map(|folder| begin(folder)).collect::<Result<_>>()?;
        let judged_on = if run.data.held_out.is_none() { "test" } else { "held_out" };
        let mut events = Self { files, judged_on };
        if is_new {
            run.rows().chunks(settings.replicas.len()).try_for_each(|rows| events.epoch(rows))?;
        }
        Ok(events)
    }

    /// Writes the figures of an epoch: a row for each net, as [`Watch::epoch`](super::Watch::epoch) gets them.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn epoch(&mut self, rows: &[EpochMetrics]) -> Result<()> {
        let time = seconds(SystemTime::now());
        for (row, (path, file)) in rows.iter().zip(&mut self.files) {
            let event = event(row, self.judged_on, time);
            write(file, &event).map_err(Error::io("write", path.as_path()))?;
        }
        Ok(())
    }
}

fn event(row: &EpochMetrics, judged_on: &str, wall_time: f64) -> Event {
    let value = |tag: String, value: f64| Value { tag, simple_value: Some(value as f32) };
    let values = [
        value("loss/train".into(), row.train_loss),
        value(format!("loss/{judged_on}"), row.test_loss),
        value("accuracy/train".into(), row.train_accuracy),
        value(format!("accuracy/{judged_on}"), row.test_accuracy),
        value("learning_rate".into(), row.learning_rate.into()),
        value("seconds_per_epoch".into(), row.seconds),
    ];
    Event {
        wall_time,
        step: row.step.into(),
        file_version: None,
        summary: Some(Summary { value: values.into() }),
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn holds_events(folder: &Path) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)))
}

/// Makes a new file with the message that every file begins with.
fn begin(folder: &Path) -> Result<(PathBuf, File)> {
    fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
    let time = seconds(SystemTime::now());
    // A second program or machine has another name, and so has a run that goes on within the same second.
    let (host, process) = (gethostname::gethostname().display().to_string(), std::process::id());
    for number in 0.. {
        let path = folder.join(format!("{PREFIX}{:010}.{host}.{process}.{number}", time as u64));
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let mut file = made.map_err(Error::io("write", &path))?;
                let version = Some(FILE_VERSION.to_owned());
                let first = Event { wall_time: time, step: 0, file_version: version, summary: None };
                write(&mut file, &first).map_err(Error::io("write", &path))?;
                return Ok((path, file));
            }
        }
    }
    unreachable!("numbers do not end")
}

/// Adds a record to a file, in one piece: TensorBoard may be reading.
fn write(file: &mut File, event: &Event) -> io::Result<()> {
    file.write_all(&record(&event.encode_to_vec()))
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked_crc(bytes).to_le_bytes();
    [&length[..], &checksum(&length), message, &checksum(message)].concat()
}

/// CRC-32C, turned and moved as TensorFlow does, so that a checksum of what has checksums in it stays a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's, bit by bit: an epoch has a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let shift = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the CRC catalogue, and RFC 3720's examples.
    #[test]
    fn checksums_of_known_bytes() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// Records that TensorBoard 2.21's own writer makes of the same messages.
    #[test]
    fn records_are_those_of_tensorboard() {
        let version = Some(FILE_VERSION.to_owned());
        let first = Event { wall_time: 1.5, step: 0, file_version: version, summary: None };
        let value = Value { tag: "loss/train".into(), simple_value: Some(0.25) };
        let second = Event {
            wall_time: 2.5,
            step: 7,
            file_version: None,
            summary: Some(Summary { value: vec![value] }),
        };
        let hex = |event: &Event| -> String {
            record(&event.encode_to_vec()).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(
            hex(&first),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        assert_eq!(
            hex(&second),
            "200000000000000029eda95009000000000000044010072a130a110a0a6c6f73732f747261696e150000803e01407433"
        );
    }
}
