//! What a user may write in a model or suite file: every message says where and what would be valid, and nothing
//! about how it is read.

use std::fs;
use std::time::{Duration, Instant};

use shadernet::experiments::Suite;
use shadernet::model::Model;

const MODEL: &str = r#"name = "every"
input = [1, 12, 12]
classes = ["a", "b", "c"]
layers = [
  { type = "conv2d", name = "first", out_channels = 4, kernel = 3, stride = 1, padding = 1, dilation = 1, groups = 1, bias = true },
  { type = "leaky_relu", negative_slope = 0.1 },
  { type = "batch_norm2d", eps = 1e-5, momentum = 0.1 },
  { type = "max_pool2d", kernel = 2, stride = 2, padding = 0 },
  { type = "avg_pool2d", kernel = 2, stride = 2, padding = 0 },
  { type = "dropout", rate = 0.1 },
  { type = "concat", name = "both", from = ["dropout1", "avg_pool1"] },
  { type = "flatten" },
  { type = "linear", out_features = 3, bias = false, rate = 0.5 },
]

[train]
epochs = 3
batch_size = 16
optimizer = { type = "sgd", momentum = 0.9, nesterov = true, weight_decay = 0.0 }
learning_rate = { schedule = "one_cycle", peak = 0.1, warmup = 0.2, start = 0.1, end = 0.1 }
init = "kaiming"
label_smoothing = 0.1
average_decay = 0.5
warmup = 0.0
class_weights = [1.0, 0.5, 2.5]
clip_norm = 1.5
freeze = ["first"]
early_stop = { patience = 3, on = "loss" }
keep = "best"
augment = { rotate_degrees = 3.0, shift_pixels = 1.0, scale = 0.05, shear = 0.1, plain_epochs = 1 }
"#;

/// Words of serde and Rust, which users should not need to know.
const FORBIDDEN: &[&str] = &[
    "usize",
    "u64",
    "u32",
    "u16",
    "u8",
    "i64",
    "f32",
    "f64",
    "sequence",
    "struct",
    "variant",
    "tagged",
    "enum",
    "map",
    "expected",
    "invalid type",
    "invalid value",
    "invalid length",
    "field",
    "deserial",
    "untagged",
    "newtype",
    "identifier",
    "boolean",
    "string",
    "integer",
    "array",
    "byte",
];

/// Values of every TOML type, and of extreme size.
const VALUES: &[&str] = &[
    "\"text\"",
    "\"3\"",
    "\"same\"",
    "\"\"",
    "'\\u001b[31m'",
    "-1",
    "0",
    "3",
    "3.5",
    "1e308",
    "-1e308",
    "1e999",
    "nan",
    "-inf",
    "true",
    "9223372036854775807",
    "18446744073709551615",
    "999999999999999999999999999999999999999999",
    "[]",
    "[3, 5]",
    "[[3]]",
    "[\"a\"]",
    "[{}]",
    "{}",
    "{ type = 3 }",
    "{ type = \"x\", schedule = \"x\" }",
    "{ schedule = [] }",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "0xffffffffffffffff",
    "0x7fffffffffffffff",
    "0b1",
    "1_000",
];

fn assert_plain(message: &str, text: &str) {
    // What the user wrote may contain any word.
    let words = message.to_lowercase();
    for word in FORBIDDEN {
        let found = words
            .split(|c: char| !c.is_alphanumeric() && c != ' ')
            .any(|part| format!(" {part} ").contains(&format!(" {word} ")));
        assert!(!found, "{word:?} in {message:?} for {text}");
    }
    assert!(message.len() < 700 && !message.contains('\u{1b}'), "{message:?}");
}

/// A text with the value of each `key = value` replaced by another.
fn spoiled(text: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for (at, _) in text.match_indices(" = ") {
        let rest = &text[at + 3..];
        // Up to the comma, bracket or line end that closes the value.
        let mut depth = 0;
        let end = rest.find(|c| {
            depth += i32::from("[{".contains(c)) - i32::from("]}".contains(c));
            depth < 0 || depth == 0 && (c == ',' || c == '\n')
        });
        let rest = &rest[end.unwrap_or(rest.len())..];
        for value in VALUES {
            texts.push(format!("{} = {value}{rest}", &text[..at]));
        }
        // The key has another name, so it is missing.
        texts.push(format!("{}x = 3{rest}", &text[..at]));
        let start =
            text[..at].rfind([',', '\n', '{']).map_or(0, |at| at + usize::from(&text[at..=at] != ","));
        texts.push(format!(
            "{}{}",
            &text[..start],
            rest.strip_prefix(',').filter(|_| text[..start].ends_with('{')).unwrap_or(rest)
        ));
    }
    texts
}

#[test]
fn whatever_is_wrong_with_a_model_is_said_in_plain_words() {
    Model::parse(MODEL, "x.toml").unwrap();
    let (mut refused, texts) = (0, spoiled(MODEL));
    for text in &texts {
        if let Err(error) = Model::parse(text, "x.toml") {
            let message = error.to_string();
            assert_plain(&message, text);
            let line = message.strip_prefix("x.toml:").and_then(|rest| rest.split(':').next());
            // Errors about the whole have no line.
            let whole = ["input = ", "layers is empty", "classes has "];
            let wanted = !whole.iter().any(|words| message.starts_with(&format!("x.toml: {words}")));
            assert!(!wanted || line.is_some_and(|line| line.parse::<usize>().is_ok()), "{message}\n{text}");
            refused += 1;
        }
    }
    assert!(texts.len() > 1000 && refused > 900, "{refused} of {}", texts.len());
}

const SUITE: &str = r#"name = "mine"
target = 99.0
select = { hold_out = 5000, first_seed = 900, seeds = 2, by = "loss" }
test = { first_seed = 0, seeds = 5 }

[[groups]]
name = "rates"
question = "Which?"
select = { hold_out = 5000, first_seed = 900, seeds = 2 }
test = { first_seed = 0, seeds = 5 }
arms = [
  { name = "a", model = "x.toml" },
  { name = "b", model = "x.toml", set = { dropout = 0.1 }, candidates = [{ train = { epochs = 3 } }] },
]
"#;

#[test]
fn whatever_is_wrong_with_a_suite_is_said_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.toml");
    // Suites have no recipes that decide by held-out images.
    let judged = "early_stop = { patience = 3, on = \"loss\" }\nkeep = \"best\"\n";
    fs::write(dir.path().join("x.toml"), MODEL).unwrap();
    fs::write(&path, SUITE).unwrap();
    let message = Suite::load(&path).unwrap_err().to_string();
    assert!(message.contains("every has early_stop in [train]"), "{message}");
    assert!(MODEL.contains(judged));
    fs::write(dir.path().join("x.toml"), MODEL.replace(judged, "")).unwrap();
    fs::write(&path, SUITE).unwrap();
    Suite::load(&path).unwrap();
    for text in spoiled(SUITE) {
        fs::write(&path, &text).unwrap();
        if let Err(error) = Suite::load(&path) {
            assert_plain(&error.to_string().replace(&*dir.path().to_string_lossy(), ""), &text);
        }
    }
}

/// What to write instead of names from other libraries.
#[test]
fn messages_say_what_to_write() {
    let cases = [
        (
            "{ type = \"sgd\", momentum = 0.9, nesterov = true, weight_decay = 0.0 }",
            "\"Adam\"",
            "write optimizer = { type = \"adam\" }",
        ),
        (
            "{ schedule = \"one_cycle\", peak = 0.1, warmup = 0.2, start = 0.1, end = 0.1 }",
            "0.1",
            "write learning_rate = { schedule = \"constant\", rate = 0.1 }",
        ),
        (
            "epochs = 3",
            "epochs = \"3\"",
            "x.toml:17: train.epochs must be a whole number of at least 1, not \"3\": write it without quotes",
        ),
        (
            "epochs = 3",
            "epoch = 3",
            "x.toml:17: train: there is no key `epoch` (did you mean epochs?); there are epochs, ",
        ),
        (
            "kernel = 3",
            "kernel = [3]",
            "x.toml:5: layer `first`: kernel must be a whole number of at least 1, or [height, width], not a list of 1",
        ),
        (
            "kernel = 3",
            "kernel = -1",
            "kernel must be a whole number of at least 1, or [height, width], not -1",
        ),
        ("kernel = 3", "kernel = \"3\"", "[height, width], not \"3\": write it without quotes"),
        ("kernel = 2", "kernel = [2, 2, 2]", "at least 1, or [height, width], not a list of 3"),
        (
            "stride = 1",
            "stride = [1, 2]",
            "stride must be a whole number of at least 1, not a list: write one number",
        ),
        ("epochs = 3", "epochs = 0x", "x.toml:17: train.epochs: this is not a number: digits are missing"),
        (
            "momentum = 0.9",
            "momentum = \"0.9\"",
            "x.toml:19: train.optimizer.momentum must be a number, not \"0.9\": write it without quotes",
        ),
        ("peak = 0.1", "peak = []", "x.toml:20: train.learning_rate.peak must be a number, not a list"),
        ("\"every\"", "net", "x.toml:1: net is not a value; text needs quotes: \"net\""),
        ("\"every\"", "every", "x.toml:1: every is not a value; text needs quotes: \"every\""),
        ("\"every\"", "inner", "x.toml:1: inner is not a value"),
        ("[\"a\", ", "[a, ", "x.toml:3: a is not a value; text needs quotes"),
        ("nesterov = true", "nesterov = True", "x.toml:19: write true, in lower case"),
        ("[train]", "[[train]]", "train must be a table, { key = value, ... }, not a list"),
        (
            "padding = 0",
            "padding = \"same\"",
            "only convolutions support it; write a number, such as padding = 1",
        ),
        ("padding = 1", "padding = \"valid\"", "right] or \"same\", not \"valid\": write padding = 0"),
        (
            "padding = 1",
            "padding = -1",
            "padding must be a whole number of at least 0, [top, bottom, left, right] or \"same\", not -1",
        ),
        (
            "padding = 1",
            "padding = [1, 1, 1, 3]",
            "padding [1, 1, 1, 3] must be smaller than kernel 3, on each side",
        ),
        (
            "stride = 1",
            "stride = 9223372036854775807",
            "stride = 9223372036854775807 must be from 1 to 65536",
        ),
        (
            "stride = 1",
            "stride = 18446744073709551615",
            "layers[0].stride must be a smaller number, not 18446744073709551615",
        ),
        ("kernel = 3", "kernel = 4294967295", "kernel = 4294967295 must be from 1 to 65536"),
        ("kernel = 3, ", "", "layer `first`: `kernel` is missing"),
        (
            "out_channels = 4",
            "out_channels = 4000000000000",
            "is too large: it can have at most 16000000 values",
        ),
        ("out_features = 3", "out_features = 9223372036854775807", "is too large"),
        (
            "[1, 12, 12]",
            "[1, 40000, 40000]",
            "input = [1, 40000, 40000] is too large: an image can have at most 16000000 values",
        ),
        ("[1, 12, 12]", "[1, 4294967296, 4294967296]", "is too large"),
        ("[1, 12, 12]", "[12, 12]", "x.toml:2: input must be a list of 3 values, not a list of 2"),
        ("[1, 12, 12]", "[1, 12, 12, 1]", "x.toml:2: input must be a list of 3 values, not a list of 4"),
        (
            "\"flatten\"",
            "\"softmax\"",
            "x.toml:12: there is no layer type \"softmax\": leave it out, since the loss takes the softmax itself",
        ),
        ("\"flatten\"", "\"Dense\"", "write linear, after flatten"),
        ("\"flatten\"", "\"Conv2D\"", "write conv2d"),
        ("\"flatten\"", "\"Dropout2d\"", "write dropout, "),
        ("\"flatten\"", "\"AdaptiveAvgPool2d\"", "write adaptive_avg_pool2d"),
        ("\"flatten\"", "\"GroupNorm\"", "write group_norm;"),
        ("\"flatten\"", "\"LayerNormalization\"", "write group_norm with groups = 1;"),
        ("\"flatten\"", "\"InstanceNorm2d\"", "write group_norm with as many groups as channels;"),
        ("\"flatten\"", "\"nn.Flaten\"", "did you mean flatten?"),
        ("\"flatten\"", "\"swish\"", "write silu"),
        ("\"flatten\"", "\"Mish\"", "silu and gelu are the smooth rectifiers"),
        ("momentum = 0.9", "momentum = nan", "momentum = NaN must be from 0"),
        ("peak = 0.1", "peak = 1e308", "learning_rate.peak = inf must be from"),
        ("nesterov", "nestrov", "there is no key `nestrov` (did you mean nesterov?)"),
        (
            "\"one_cycle\"",
            "\"onecycle\"",
            "there is no name \"onecycle\" (did you mean one_cycle?); there are constant, step, cosine, ",
        ),
        ("\"kaiming\"", "\"he\"", "train.init: there is no name \"he\"; there are "),
        ("\"kaiming\"", "3", "train.init must be \"pytorch\" or \"kaiming\", not 3"),
        ("[\"a\", \"b\", \"c\"]", "[\"a\", \"b\", \"a\"]", "x.toml:3: classes: \"a\" appears twice"),
        (
            "[\"a\", \"b\", \"c\"]",
            "[\"a\", \"\", \"c\"]",
            "classes: name 2 must have 1 to 100 printable characters",
        ),
        (
            "[\"a\", \"b\", \"c\"]",
            "[\"a\", \"\\u001b[31m\", \"c\"]",
            "classes: name 2 must have 1 to 100 printable characters",
        ),
    ];
    for (from, to, words) in cases {
        assert!(MODEL.contains(from), "{from}");
        let message = Model::parse(&MODEL.replacen(from, to, 1), "x.toml").unwrap_err().to_string();
        assert!(message.contains(words), "{from} -> {to}: {message}");
    }
    for name in ["x".repeat(100_000), "ü".repeat(50_000)] {
        for from in ["every", "first", "conv2d", "kaiming", "weight_decay"] {
            let message = Model::parse(&MODEL.replacen(from, &name, 1), "x.toml").unwrap_err().to_string();
            assert!(message.len() < 700, "{from}: {}", message.len());
        }
    }
}

#[test]
fn what_does_not_join_is_said_with_its_line() {
    let text = |line: &str| {
        format!(
            "name = \"x\"\ninput = [2, 6, 6]\nlayers = [\n  {{ type = \"relu\", name = \"one\" }},\n  \
             {{ type = \"max_pool2d\", kernel = 2, name = \"half\" }},\n  {line},\n  \
             {{ type = \"global_avg_pool2d\", name = \"end\" }},\n]\n"
        )
    };
    Model::parse(&text("{ type = \"relu\" }"), "x.toml").unwrap();
    let cases = [
        (r#"{ type = "add", from = ["one", "haf"] }"#, "x.toml:6: layer `add1`: ", "did you mean half?"),
        (r#"{ type = "add", from = ["one", "end"] }"#, "x.toml:6: layer `add1`: ", "move it before"),
        (
            r#"{ type = "add", name = "me", from = ["one", "me"] }"#,
            "x.toml:6: layer `me`: ",
            "that is this layer itself",
        ),
        (
            r#"{ type = "add", from = ["one", "half"] }"#,
            "x.toml:6: layer `add1`: ",
            "not [2, 6, 6] and [2, 3, 3]",
        ),
        (
            r#"{ type = "concat", from = ["input", "half"] }"#,
            "x.toml:6: layer `concat1`: ",
            "[2, 6, 6] and [2, 3, 3]",
        ),
        (
            r#"{ type = "multiply", from = ["one", "half"] }"#,
            "x.toml:6: layer `multiply1`: ",
            "[2, 6, 6] by [2, 3, 3]",
        ),
        (r#"{ type = "add", from = "half" }"#, "x.toml:6: layer `add1`: ", "takes 2 to 16 inputs, not 1"),
        (r#"{ type = "add" }"#, "x.toml:6: layer `add1`: ", "takes 2 to 16 inputs, not 1"),
        (r#"{ type = "multiply", from = ["half", "half", "half"] }"#, "x.toml:6: ", "takes 2 inputs, not 3"),
        (r#"{ type = "relu", from = ["one", "half"] }"#, "x.toml:6: layer `relu2`: ", "relu takes one input"),
        (
            r#"{ type = "relu", from = [] }"#,
            "x.toml:6: layer `relu2`: ",
            "from is empty: name the input of relu",
        ),
        (
            r#"{ type = "relu", form = "one" }"#,
            "x.toml:6: layer `relu2`: ",
            "no key `form` (did you mean from?)",
        ),
        (
            r#"{ type = "relu", slope = 1 }"#,
            "x.toml:6: layer `relu2`: ",
            "no key `slope`; none is allowed here",
        ),
        (
            r#"{ type = "relu", name = "half" }"#,
            "x.toml:6: layer `half`: ",
            "layer 2 in line 5 has this name",
        ),
        (
            r#"{ type = "relu", name = "input" }"#,
            "x.toml:6: layer `input`: ",
            "the names input and loss are reserved",
        ),
        (r#"{ type = "prelu", num_parameters = -1 }"#, "x.toml:6: layer `prelu1`: ", "at least 1, not -1"),
        (r#"{ type = "relu", from = 3 }"#, "x.toml:6: ", "from must be the name of an earlier layer"),
        (
            r#"{ type = "relu", from = ["half", 3] }"#,
            "x.toml:6: ",
            "from must be the name of an earlier layer",
        ),
        (r#"{ type = "relu", from = "one" }"#, "x.toml:5: layer `half`: ", "no layer reads its output"),
    ];
    for (line, place, words) in cases {
        let message = Model::parse(&text(line), "x.toml").unwrap_err().to_string();
        assert!(message.starts_with(place) && message.contains(words), "{line}: {message}");
        assert_plain(&message, line);
    }
    let first = text("{ type = \"relu\" }").replace("\"relu\", name", "\"relu\", from = \"half\", name");
    let message = Model::parse(&first, "x.toml").unwrap_err().to_string();
    assert!(
        message.starts_with("x.toml:4: layer `one`: ") && message.contains("move it before"),
        "{message}"
    );
}

#[test]
fn of_many_names_the_last_are_listed() {
    let layers = "{ type = \"relu\" },\n".repeat(4000);
    let text = format!(
        "name = \"x\"\ninput = [2, 1, 1]\nlayers = [\n{layers}{{ type = \"relu\", from = \"rellu3999\" }},\n]"
    );
    let message = Model::parse(&text, "x.toml").unwrap_err().to_string();
    assert!(message.contains("did you mean relu3999?") && message.contains("and 3961 others"), "{message}");
    assert!(message.len() < 700, "{}", message.len());
}

#[test]
fn keys_of_many_parts_are_refused() {
    let message = Model::parse(&format!("x{} = 1", ".x".repeat(200_000)), "x.toml").unwrap_err().to_string();
    assert_eq!(message, "x.toml:1: keys are nested more than 64 deep");
    let numbers = format!("x = [{}]", "1.5, ".repeat(100));
    assert!(!Model::parse(&numbers, "x.toml").unwrap_err().to_string().contains("within"));
}

/// The parser is recursive: however deeply brackets are nested, and whatever is wrong with them, the stack holds.
#[test]
fn brackets_within_brackets_are_no_danger() {
    for piece in
        ["[", "{", "{ a = ", "{ a ", "{ a = ]", "{ a = ], b = ", "[{ a = ", "{ a = }", "[ }", "x = [\n"]
    {
        for start in ["x = ", "layers = [", "", "[[layers]]\n"] {
            let message =
                Model::parse(&format!("{start}{}", piece.repeat(30_000)), "x.toml").unwrap_err().to_string();
            assert!(message.starts_with("x.toml:") && message.len() < 300, "{start}{piece}: {message}");
        }
    }
}

#[test]
fn a_text_beyond_every_description_is_refused_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let (path, text) = (dir.path().join("suite.toml"), "#".repeat((8 << 20) + 1));
    fs::write(&path, &text).unwrap();
    for message in [Model::parse(&text, "x.toml").unwrap_err(), Suite::load(&path).unwrap_err()] {
        assert!(message.to_string().contains("is too large"), "{message}");
    }
}

/// Time grows linearly with the number of layers, not quadratically.
#[test]
fn tens_of_thousands_of_layers_are_read_at_once() {
    let mut text = String::from("name = \"deep\"\ninput = [4, 4, 4]\nlayers = [\n");
    text += "{ type = \"conv2d\", out_channels = 4, kernel = 1 },\n";
    for _ in 0..15_000 {
        text += "{ type = \"relu\" },\n{ type = \"conv2d\", out_channels = 4, kernel = 1, weights_of = \"conv1\" },\n";
    }
    text += "{ type = \"global_avg_pool2d\" }]\n";
    let start = Instant::now();
    let model = Model::parse(&text, "deep.toml").unwrap();
    assert_eq!((model.layers.len(), model.parameter_count()), (30_002, 20));
    assert_eq!(model.param_indices().len(), 30_002);
    assert!(model.to_string().len() > 1_000_000);
    Model::parse(&model.to_toml(), "deep.toml").unwrap();
    // Less than a second in optimised builds; quadratic time would be minutes.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
