//! The datasets that can be fetched.

use super::{DataSet, RemoteFile};

const fn file(name: &'static str, size: u64, sha256: &'static str) -> RemoteFile<'static> {
    RemoteFile { name, size, sha256 }
}

/// The datasets that can be fetched. Sizes and hashes are those listed by TensorFlow Datasets.
pub const DATA_SETS: &[DataSet<'static>] = &[
    DataSet {
        name: "mnist",
        about: "MNIST (LeCun, Cortes, Burges), CC BY-SA 3.0",
        mirror: "https://ossci-datasets.s3.amazonaws.com/mnist",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
        members: &[],
        description: "",
    },
    DataSet {
        name: "fashion-mnist",
        about: "Fashion-MNIST (Xiao, Rasul, Vollgraf; Zalando), MIT",
        mirror: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
        members: &[],
        description: "",
    },
    DataSet {
        name: "kmnist",
        about: "KMNIST (CODH, adapted from the Kuzushiji Dataset of NIJL and others), CC BY-SA 4.0",
        mirror: "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ],
        members: &[],
        description: "",
    },
    emnist(
        "emnist-balanced",
        &[
            "emnist-balanced-train-images-idx3-ubyte.gz",
            "emnist-balanced-train-labels-idx1-ubyte.gz",
            "emnist-balanced-test-images-idx3-ubyte.gz",
            "emnist-balanced-test-labels-idx1-ubyte.gz",
        ],
        BALANCED,
    ),
    emnist(
        "emnist-letters",
        &[
            "emnist-letters-train-images-idx3-ubyte.gz",
            "emnist-letters-train-labels-idx1-ubyte.gz",
            "emnist-letters-test-images-idx3-ubyte.gz",
            "emnist-letters-test-labels-idx1-ubyte.gz",
        ],
        LETTERS,
    ),
    emnist(
        "emnist-digits",
        &[
            "emnist-digits-train-images-idx3-ubyte.gz",
            "emnist-digits-train-labels-idx1-ubyte.gz",
            "emnist-digits-test-images-idx3-ubyte.gz",
            "emnist-digits-test-labels-idx1-ubyte.gz",
        ],
        DIGITS,
    ),
    emnist(
        "emnist-mnist",
        &[
            "emnist-mnist-train-images-idx3-ubyte.gz",
            "emnist-mnist-train-labels-idx1-ubyte.gz",
            "emnist-mnist-test-images-idx3-ubyte.gz",
            "emnist-mnist-test-labels-idx1-ubyte.gz",
        ],
        DIGITS,
    ),
    emnist(
        "emnist-byclass",
        &[
            "emnist-byclass-train-images-idx3-ubyte.gz",
            "emnist-byclass-train-labels-idx1-ubyte.gz",
            "emnist-byclass-test-images-idx3-ubyte.gz",
            "emnist-byclass-test-labels-idx1-ubyte.gz",
        ],
        BY_CLASS,
    ),
    emnist(
        "emnist-bymerge",
        &[
            "emnist-bymerge-train-images-idx3-ubyte.gz",
            "emnist-bymerge-train-labels-idx1-ubyte.gz",
            "emnist-bymerge-test-images-idx3-ubyte.gz",
            "emnist-bymerge-test-labels-idx1-ubyte.gz",
        ],
        BALANCED,
    ),
    DataSet {
        name: "cifar-10",
        about: "CIFAR-10 (Krizhevsky, Nair, Hinton), without a stated licence",
        mirror: "https://www.cs.toronto.edu/~kriz",
        files: &[file(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )],
        members: &[
            "batches.meta.txt",
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin",
        ],
        description: "",
    },
    DataSet {
        name: "cifar-100",
        about: "CIFAR-100 (Krizhevsky, Nair, Hinton), without a stated licence",
        mirror: "https://www.cs.toronto.edu/~kriz",
        files: &[file(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )],
        members: &["fine_label_names.txt", "train.bin", "test.bin"],
        description: "",
    },
];

const EMNIST: &[RemoteFile<'static>] =
    &[file("gzip.zip", 561_753_746, "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e")];

/// One of the splits of EMNIST, which are all in one archive.
const fn emnist(
    name: &'static str,
    members: &'static [&'static str],
    description: &'static str,
) -> DataSet<'static> {
    DataSet {
        name,
        about: "EMNIST (Cohen, Afshar, Tapson, van Schaik; NIST), in the public domain",
        mirror: "https://biometrics.nist.gov/cs_links/EMNIST",
        files: EMNIST,
        members,
        description,
    }
}

/// What `dataset.toml` says of a split. The files hold every image transposed.
macro_rules! split {
    ($title:literal, $first:literal, $classes:literal) => {
        concat!(
            "name = \"EMNIST ",
            $title,
            "\"\nclasses = [",
            $classes,
            "]\nfirst_label = ",
            $first,
            "\ntranspose = true\nprepare = \"digit\"\n"
        )
    };
}

const DIGITS: &str =
    split!("digits", "0", "\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"");
const LETTERS: &str = split!(
    "letters",
    "1",
    "\"A\", \"B\", \"C\", \"D\", \"E\", \"F\", \"G\", \"H\", \"I\", \"J\", \"K\", \"L\", \"M\", \"N\", \"O\", \"P\", \"Q\", \"R\", \"S\", \"T\", \"U\", \"V\", \"W\", \"X\", \"Y\", \"Z\""
);
/// Small letters that look like their capitals are counted among those.
const BALANCED: &str = split!(
    "balanced",
    "0",
    "\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\", \"A\", \"B\", \"C\", \"D\", \"E\", \"F\", \"G\", \"H\", \"I\", \"J\", \"K\", \"L\", \"M\", \"N\", \"O\", \"P\", \"Q\", \"R\", \"S\", \"T\", \"U\", \"V\", \"W\", \"X\", \"Y\", \"Z\", \"a\", \"b\", \"d\", \"e\", \"f\", \"g\", \"h\", \"n\", \"q\", \"r\", \"t\""
);
const BY_CLASS: &str = split!(
    "by class",
    "0",
    "\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\", \"A\", \"B\", \"C\", \"D\", \"E\", \"F\", \"G\", \"H\", \"I\", \"J\", \"K\", \"L\", \"M\", \"N\", \"O\", \"P\", \"Q\", \"R\", \"S\", \"T\", \"U\", \"V\", \"W\", \"X\", \"Y\", \"Z\", \"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\", \"i\", \"j\", \"k\", \"l\", \"m\", \"n\", \"o\", \"p\", \"q\", \"r\", \"s\", \"t\", \"u\", \"v\", \"w\", \"x\", \"y\", \"z\""
);
