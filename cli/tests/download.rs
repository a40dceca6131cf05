//! Fetching datasets from servers of all kinds, which this file simulates.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

#[cfg(unix)]
#[path = "common/signals.rs"]
mod signals;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use shadernet::download::{DATA_SETS, DataSet, RemoteFile, fetch};

/// How a server answers a request: path, first byte requested (0 for all), number of the request.
type Answer = dyn Fn(&mut TcpStream, &str, usize, usize) + Send;

/// A server on this machine: its URL, and the requests it received, as path and first byte.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<(String, usize)>>>,
}

impl Server {
    fn new(answer: Box<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/set", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        // It ends with the process.
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
                let mut from = 0;
                for line in lines.take_while(|line| !line.is_empty()) {
                    if let Some(range) = line.to_lowercase().strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().unwrap();
                    }
                }
                log.lock().unwrap().push((path.clone(), from));
                answer(&mut stream, &path, from, number);
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> Vec<(String, usize)> {
        self.requests.lock().unwrap().clone()
    }
}

/// Sends a head and a body; it doesn't matter if the client is gone.
fn send(stream: &mut TcpStream, status: &str, more: &str, length: usize, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// Sends `content` from byte `from` on, like a server that supports ranges.
fn send_from(stream: &mut TcpStream, content: &[u8], from: usize, sent: usize) {
    let (rest, all) = (&content[from..], content.len());
    let range = format!("Content-Range: bytes {from}-{}/{all}\r\n", all - 1);
    let (status, range) = if from > 0 { ("206 Partial Content", range.as_str()) } else { ("200 OK", "") };
    send(stream, status, range, rest.len(), &rest[..sent.min(rest.len())]);
}

/// Content that looks like a gzip file, slightly more than 200,000 bytes.
fn content(number: usize) -> Vec<u8> {
    let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    [0x1f, 0x8b].into_iter().chain((0..200_000 + number).map(|at| noise(at + number))).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fetches a dataset of the files `a.gz` and `b.gz` into `folder`, and returns the total number of bytes announced.
fn fetch_two(url: &str, folder: &Path, force: bool) -> Result<u64, String> {
    let hashes = [0, 1].map(|number| sha256(&content(number)));
    let file = |number: usize, name| RemoteFile {
        name,
        size: content(number).len() as u64,
        sha256: &hashes[number],
    };
    let files = [file(0, "a.gz"), file(1, "b.gz")];
    let mirror = "http://127.0.0.1:9";
    let set = DataSet { name: "two", about: "", mirror, files: &files, members: &[], description: "" };
    let mut seen = [0; 2];
    let mut watch = |file: &RemoteFile<'_>, done: u64| seen[usize::from(file.name == "b.gz")] = done;
    fetch(&set, Some(url), folder, force, &mut watch).map_err(|error| error.to_string())?;
    Ok(seen.iter().sum())
}

fn number(path: &str) -> usize {
    usize::from(path == "/set/b.gz")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Fails unless both files are complete and nothing else is there.
fn assert_whole(folder: &Path) {
    assert_eq!(names(folder), ["SHA256SUMS", "a.gz", "b.gz"]);
    for (index, name) in ["a.gz", "b.gz"].into_iter().enumerate() {
        assert!(fs::read(folder.join(name)).unwrap() == content(index), "{name}");
    }
}

#[test]
fn a_data_set_is_fetched_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data/two");
    let server = Server::new(Box::new(|stream, path, from, _| {
        send_from(stream, &content(number(path)), from, usize::MAX);
    }));
    assert_eq!(fetch_two(&server.url, &folder, false), Ok(400_005));
    assert_whole(&folder);
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    assert_eq!(sums, format!("{}  a.gz\n{}  b.gz\n", sha256(&content(0)), sha256(&content(1))));
    assert_eq!(server.requests(), [("/set/a.gz".to_owned(), 0), ("/set/b.gz".to_owned(), 0)]);
    // Existing files are not fetched again, an extra slash does not matter, and other files are not touched.
    assert_eq!(fetch_two(&format!("{}/", server.url), &folder, false), Ok(400_005));
    assert_eq!(server.requests().len(), 2);
    fs::write(folder.join("b.gz"), "mine").unwrap();
    let message = fetch_two(&server.url, &folder, false).unwrap_err();
    assert!(message.contains("b.gz: this file exists, but is not from two"), "{message}");
    assert_eq!(fs::read(folder.join("b.gz")).unwrap(), b"mine");
    fetch_two(&server.url, &folder, true).unwrap();
    assert_whole(&folder);
    assert_eq!(server.requests()[2..], [("/set/b.gz".to_owned(), 0)]);
}

#[test]
fn a_broken_connection_goes_on_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Server::new(Box::new(|stream, path, from, request| {
        let sent = if request == 0 { 100_000 } else { usize::MAX };
        send_from(stream, &content(number(path)), from, sent);
    }));
    assert_eq!(fetch_two(&broken.url, dir.path(), false), Ok(400_005));
    assert_whole(dir.path());
    let requests = broken.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!((requests[1].0.as_str(), requests[1].1), ("/set/a.gz", 100_000));

    // A connection that always breaks immediately ends in an error, and the next command resumes.
    let dir = tempfile::tempdir().unwrap();
    let hopeless = Server::new(Box::new(|stream, path, from, request| {
        send_from(stream, &content(number(path)), from, if request == 0 { 60_000 } else { 0 });
    }));
    let message = fetch_two(&hopeless.url, dir.path(), false).unwrap_err();
    assert!(
        message.contains("/set/a.gz: the connection") && message.contains("60000 of 200002 bytes"),
        "{message}"
    );
    assert!(message.contains("another attempt continues"), "{message}");
    assert_eq!((hopeless.requests().len(), names(dir.path())), (4, vec!["a.gz.part".to_owned()]));
    let good = Server::new(Box::new(|stream, path, from, _| {
        send_from(stream, &content(number(path)), from, usize::MAX);
    }));
    fetch_two(&good.url, dir.path(), false).unwrap();
    assert_whole(dir.path());
    assert_eq!(good.requests()[0], ("/set/a.gz".to_owned(), 60_000));
}

#[test]
fn servers_that_do_not_know_ranges_begin_anew() {
    for status in ["200 OK", "416 Range Not Satisfiable", "206 Partial Content"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.gz.part"), &content(0)[..70_000]).unwrap();
        // Anything longer than the file can't be part of it.
        fs::write(dir.path().join("b.gz.part"), vec![7; 300_000]).unwrap();
        let server = Server::new(Box::new(move |stream, path, from, _| {
            let all = content(number(path));
            match (from, status) {
                (0, _) | (_, "200 OK") => send(stream, "200 OK", "", all.len(), &all),
                // Another range than requested.
                (_, "206 Partial Content") => {
                    send(stream, status, "Content-Range: bytes 5-9/200002\r\n", 5, &all[5..10]);
                }
                _ => send(stream, status, "", 0, b""),
            }
        }));
        assert_eq!(fetch_two(&server.url, dir.path(), false), Ok(400_005), "{status}");
        assert_whole(dir.path());
        let requests = server.requests();
        assert_eq!(requests[0], ("/set/a.gz".to_owned(), 70_000));
        assert_eq!(requests.last(), Some(&("/set/b.gz".to_owned(), 0)));
    }
}

#[test]
fn what_is_not_the_file_gets_no_name() {
    let page = b"  <!DOCTYPE html><title>Log in</title>".as_slice();
    let mut changed = content(0);
    *changed.last_mut().unwrap() ^= 1;
    let longer = [&content(0)[..], &[0]].concat();
    let cases: [(&'static str, Vec<u8>, &str); 6] = [
        ("200 OK", changed, "this is not the expected file: its SHA-256 is "),
        ("200 OK", page.to_vec(), "this is an HTML or XML page, not a gzip file"),
        (
            "200 OK",
            b"version https://git-lfs".to_vec(),
            "this is not a gzip file: it starts with the bytes [76, 65, 72, 73]",
        ),
        ("200 OK", longer, "it has more than 200002 bytes"),
        ("404 Not Found", page.to_vec(), "the server answered 404 Not Found"),
        ("503 Service Unavailable", page.to_vec(), "the server answered 503 Service Unavailable"),
    ];
    for (status, body, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server::new(Box::new(move |stream, _, _, _| send(stream, status, "", body.len(), &body)));
        let message = fetch_two(&server.url, dir.path(), false).unwrap_err();
        assert!(
            message.starts_with(&format!("{}/a.gz: ", server.url)) && message.contains(words),
            "{message}"
        );
        assert_eq!(names(dir.path()), Vec::<String>::new(), "{message}");
        assert_eq!(server.requests().len(), 1, "{message}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (url, words) in [("http://127.0.0.1:9", "127.0.0.1:9/a.gz: "), ("no url", "no url/a.gz: ")] {
        let message = fetch_two(url, dir.path(), false).unwrap_err();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_said_before_anything_is_fetched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let server = Server::new(Box::new(|stream, path, from, _| {
        send_from(stream, &content(number(path)), from, usize::MAX);
    }));
    let message = fetch_two(&server.url, &dir.path().join("file/data"), false).unwrap_err();
    assert!(message.starts_with("cannot make the folder ") && message.contains("file/data"), "{message}");
    assert!(server.requests().is_empty());
    // A folder in the way of a file.
    fs::create_dir(dir.path().join("a.gz.part")).unwrap();
    let message = fetch_two(&server.url, dir.path(), false).unwrap_err();
    assert!(message.starts_with("cannot ") && message.contains("a.gz.part"), "{message}");
}

#[test]
fn what_an_earlier_download_left_is_used_or_removed() {
    let server = Server::new(Box::new(|stream, path, from, _| {
        send_from(stream, &content(number(path)), from, usize::MAX);
    }));
    let dir = tempfile::tempdir().unwrap();
    // A part of something else is worth a second try without it.
    fs::write(dir.path().join("a.gz.part"), vec![7; 70_000]).unwrap();
    fs::write(dir.path().join("SHA256SUMS"), "00  mine\n11  a.gz\n").unwrap();
    fetch_two(&server.url, dir.path(), false).unwrap();
    assert_whole(dir.path());
    assert_eq!(server.requests()[1], ("/set/a.gz".to_owned(), 0));
    let sums = fs::read_to_string(dir.path().join("SHA256SUMS")).unwrap();
    assert!(sums.starts_with("00  mine\n") && sums.lines().count() == 3, "{sums}");
    // The part of a file that is complete.
    fs::write(dir.path().join("a.gz.part"), "left").unwrap();
    fetch_two(&server.url, dir.path(), false).unwrap();
    assert_whole(dir.path());
    // With `force`, the old file stays until the new one is there.
    let broken = Server::new(Box::new(|stream, _, _, _| send(stream, "404 Not Found", "", 0, b"")));
    fs::write(dir.path().join("a.gz"), "mine").unwrap();
    fetch_two(&broken.url, dir.path(), true).unwrap_err();
    assert_eq!(fs::read(dir.path().join("a.gz")).unwrap(), b"mine");
    assert_eq!(names(dir.path()), ["SHA256SUMS", "a.gz", "b.gz"]);
}

/// Two downloads into one folder don't harm each other, and the second says why it stops.
#[test]
fn a_file_is_fetched_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let slow = Server::new(Box::new(|stream, path, _, _| {
        let all = content(number(path));
        send(stream, "200 OK", "", all.len(), &all[..50_000]);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let _ = stream.write_all(&all[50_000..]);
    }));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| fetch_two(&slow.url, dir.path(), false));
        while !dir.path().join("a.gz.part").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        let message = fetch_two(&slow.url, dir.path(), false).unwrap_err();
        assert!(message.contains("a.gz.part: another process is downloading it"), "{message}");
        first.join().unwrap().unwrap();
    });
    assert_whole(dir.path());
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_neither_read_nor_written() {
    let server = Server::new(Box::new(|stream, path, from, _| {
        send_from(stream, &content(number(path)), from, usize::MAX);
    }));
    for (name, kind) in [("a.gz.part", "a pipe"), ("a.gz", "a pipe"), ("a.gz.part", "a link")] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        if kind == "a link" {
            std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        } else {
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        }
        let message = fetch_two(&server.url, dir.path(), false).unwrap_err();
        assert!(message.contains(name) && message.contains(kind), "{message}");
        assert_eq!(names(dir.path()), [name]);
    }
}

/// Ctrl-C and the like end the program at once, and the same command resumes.
#[cfg(unix)]
#[test]
fn a_stopped_download_says_how_to_go_on() {
    for (signal, number, code) in [("INT", 2, 130), ("TERM", 15, 143), ("HUP", 1, 129)] {
        if signals::is_ignored(number) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let stuck = Server::new(Box::new(|stream, _, _, _| {
            send(stream, "200 OK", "", 9_912_422, &content(0));
            std::thread::sleep(std::time::Duration::from_secs(20));
        }));
        let child = Command::new(env!("CARGO_BIN_EXE_shadernet"))
            .args(["data", "mnist", "--out", "x", "--mirror", &stuck.url])
            .current_dir(dir.path())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let part = dir.path().join("x/train-images-idx3-ubyte.gz.part");
        while fs::metadata(&part).map_or(0, |about| about.len()) < 200_000 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let kill = format!("kill -s {signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(said, "stopped; the same command continues from here\n");
        assert_eq!(done.status.code(), Some(code));
        assert_eq!(fs::metadata(&part).unwrap().len(), 200_002);
    }
}

#[test]
fn the_known_data_sets_are_whole_and_the_program_names_them() {
    for set in DATA_SETS {
        assert!(set.files.len() == 4 || set.files.len() == 1 && set.members.len() >= 3, "{}", set.name);
        assert!(set.mirror.starts_with("http") && !set.mirror.ends_with('/'), "{}", set.mirror);
        for file in set.files {
            let digits = file.sha256.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
            assert!(digits && file.sha256.len() == 64, "{} {}", set.name, file.name);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(Box::new(|stream, _, _, _| send(stream, "404 Not Found", "", 0, b"")));
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_shadernet"))
            .current_dir(dir.path())
            .args(args)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run(&["data", "kmnist", "--mirror", &server.url]);
    let wanted =
        format!("error: {}/train-images-idx3-ubyte.gz: the server answered 404 Not Found\n", server.url);
    assert_eq!((code, message), (1, wanted));
    assert!(dir.path().join("data/kmnist").is_dir());
    let (code, message) = run(&["data", "imagenet"]);
    assert!(code == 2 && message.contains("mnist, fashion-mnist, kmnist, emnist-balanced"), "{message}");
    let (code, message) = run(&["data", "emnist", "--mirror", &server.url]);
    assert!(code == 1 && message.contains("/set/gzip.zip: the server answered 404 Not Found"), "{message}");
}

/// A ZIP archive, whose first file is not compressed.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for (index, (name, bytes)) in files.iter().enumerate() {
        let method =
            if index == 0 { rawzip::CompressionMethod::STORE } else { rawzip::CompressionMethod::DEFLATE };
        let (mut entry, config) = archive.new_file(name).compression_method(method).start().unwrap();
        let descriptor = if index == 0 {
            let mut writer = config.wrap(&mut entry);
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap().1
        } else {
            let encoder = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::fast());
            let mut writer = config.wrap(encoder);
            writer.write_all(bytes).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            descriptor
        };
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap()
}

/// A gzipped tape archive.
fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// Fetches the members `a.bin` and `b.txt` of an archive.
fn fetch_archive(url: &str, name: &str, archive: &[u8], folder: &Path, force: bool) -> Result<(), String> {
    let hash = sha256(archive);
    let files = [RemoteFile { name, size: archive.len() as u64, sha256: &hash }];
    let set = DataSet {
        name: "packed",
        about: "",
        mirror: url,
        files: &files,
        members: &["a.bin", "b.txt"],
        description: "transpose = true\n",
    };
    fetch(&set, None, folder, force, &mut |_, _| ()).map_err(|error| error.to_string())
}

#[test]
fn of_an_archive_the_wanted_files_stay() {
    let noise: Vec<u8> = (0..100_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let wanted: &[(&str, &[u8])] =
        &[("folder/readme.html", b"no"), ("folder/a.bin", &noise), ("../folder/b.txt", b"words")];
    // Nothing but the names of the members counts.
    let plain: &[(&str, &[u8])] =
        &[("folder/readme.html", b"no"), ("folder/a.bin", &noise), ("b.txt", b"words")];
    for (name, archive) in [("set.zip", zip(wanted)), ("set.tar.gz", tar_gz(plain))] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        let sent = archive.clone();
        let server = Server::new(Box::new(move |stream, _, from, request| {
            // The first connection breaks.
            let most = if request == 0 { sent.len() / 2 } else { usize::MAX };
            send_from(stream, &sent, from, most);
        }));
        let get = |force| fetch_archive(&server.url, name, &archive, &folder, force);
        get(false).unwrap();
        assert_eq!(names(&folder), ["SHA256SUMS", "a.bin", "b.txt", "dataset.toml"]);
        assert!(fs::read(folder.join("a.bin")).unwrap() == noise);
        assert_eq!(fs::read(folder.join("b.txt")).unwrap(), b"words");
        let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
        for line in [format!("{}  {name}\n", sha256(&archive)), format!("{}  a.bin\n", sha256(&noise))] {
            assert!(sums.contains(&line), "{sums}");
        }
        let requests = server.requests().len();
        assert_eq!(requests, 2);
        // What is there is not fetched again, and what somebody wrote about it stays.
        fs::write(folder.join("dataset.toml"), "transpose = false\n").unwrap();
        get(false).unwrap();
        assert_eq!(server.requests().len(), requests);
        assert_eq!(fs::read(folder.join("dataset.toml")).unwrap(), b"transpose = false\n");
        // A file of somebody else, and one that is damaged, need consent.
        fs::write(folder.join("b.txt"), "mine").unwrap();
        let message = get(false).unwrap_err();
        assert!(message.contains("b.txt: this file exists, but is not from packed"), "{message}");
        get(true).unwrap();
        assert_eq!(fs::read(folder.join("b.txt")).unwrap(), b"words");
        // One that is gone comes back.
        fs::remove_file(folder.join("a.bin")).unwrap();
        get(false).unwrap();
        assert_eq!(names(&folder), ["SHA256SUMS", "a.bin", "b.txt", "dataset.toml"]);
    }
}

#[test]
fn an_archive_that_lacks_a_file_or_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fetched = |name: &str, archive: Vec<u8>| {
        let sent = archive.clone();
        let server =
            Server::new(Box::new(move |stream, _, from, _| send_from(stream, &sent, from, usize::MAX)));
        let folder = tempfile::tempdir_in(dir.path()).unwrap();
        let message = fetch_archive(&server.url, name, &archive, folder.path(), false).unwrap_err();
        (message, names(folder.path()))
    };
    let (message, left) = fetched("x.zip", zip(&[("a.bin", b"1")]));
    assert!(message.contains("the archive of packed has no file b.txt"), "{message}");
    // The archive stays, and nothing says that it is unpacked.
    assert!(left.contains(&"x.zip".to_owned()) && !left.contains(&"b.txt".to_owned()), "{left:?}");
    for (name, bytes, words) in [
        ("x.zip", b"<html>".to_vec(), "this is an HTML or XML page, not a ZIP archive"),
        ("x.zip", b"PK\x03\x04 and no more".to_vec(), "x.zip"),
        ("x.tar.gz", vec![0x1f, 0x8b, 9, 9, 9, 9], "x.tar.gz"),
    ] {
        let (message, left) = fetched(name, bytes);
        assert!(message.contains(words) && !left.contains(&"SHA256SUMS".to_owned()), "{message}");
    }
}
