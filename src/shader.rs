//! The WGSL files, and their reflection by naga: the only file that names naga.

use std::sync::{OnceLock, PoisonError, RwLock};

use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};

use crate::error::{Error, Result};

macro_rules! sources {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../shaders/", $name, ".wgsl")))),*]
    };
}

/// Every shader used in training: file name without `.wgsl`, and text. Each is a complete, valid WGSL file.
pub const SOURCES: &[(&str, &str)] = sources![
    "activation",
    "adam",
    "add",
    "average",
    "avg_pool2d",
    "batch",
    "batch_norm2d",
    "clip",
    "concat",
    "conv2d",
    "cross_entropy",
    "dropout",
    "fused_conv2d",
    "fused_conv2d_backward",
    "group_norm",
    "head",
    "max_pool2d",
    "multiply",
    "sgd",
];

/// Shaders that only measure a device. No network uses their results, so `doctor` doesn't check them.
pub const MEASURING: &[(&str, &str)] = sources!["ceilings"];

/// A parsed and validated shader.
#[derive(Debug)]
pub struct Shader {
    /// File name without `.wgsl`.
    pub name: &'static str,
    /// WGSL text.
    pub source: &'static str,
    /// True if devices compile it without checks of indices and loops: the shaders of this crate, whose tests show that the
    /// checks would find nothing.
    pub is_trusted: bool,
    module: naga::Module,
    info: ModuleInfo,
}

/// A storage buffer that an entry point uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The WGSL variable, which is also the tensor's name.
    pub variable: String,
    /// `@binding` number; the group is always 0.
    pub index: u32,
    /// True if declared `read_write`.
    pub writable: bool,
    /// True if the entry point reads it.
    pub read: bool,
    /// True if the entry point writes it.
    pub written: bool,
}

/// All shaders of this crate, parsed once.
pub fn all() -> &'static [Shader] {
    static SHADERS: OnceLock<Vec<Shader>> = OnceLock::new();
    SHADERS.get_or_init(|| {
        let shader = |&(name, source)| {
            // They are compiled in, so a broken one is a bug.
            let (module, info) = parse(name, source).unwrap_or_else(|error| panic!("{error}"));
            Shader { name, source, is_trusted: true, module, info }
        };
        SOURCES.iter().chain(MEASURING).map(shader).collect()
    })
}

/// Shaders of layers that the program registered.
static REGISTERED: RwLock<Vec<&'static Shader>> = RwLock::new(Vec::new());

/// Those shaders.
pub fn registered() -> Vec<&'static Shader> {
    REGISTERED.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Adds a shader for the lifetime of the process.
pub(crate) fn register(name: &'static str, source: &str, is_trusted: bool) -> Result<()> {
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    if all().iter().chain(registered.iter().copied()).any(|other| other.name == name) {
        return Err(Error::Usage(format!("the shader {name}.wgsl exists already")));
    }
    let (module, info) = parse(name, source)?;
    let shader = Shader { name, source: Box::leak(source.into()), is_trusted, module, info };
    registered.push(Box::leak(Box::new(shader)));
    Ok(())
}

/// The shader called `name`, built in or registered.
///
/// # Examples
/// ```
/// let adam = shadernet::shader::find("adam");
/// assert!(adam.source.contains("@compute"));
/// let bound: Vec<_> = adam.bindings("update").into_iter().map(|binding| binding.variable).collect();
/// assert!(bound.contains(&"params".into()));
/// ```
pub fn find(name: &str) -> &'static Shader {
    let registered = registered();
    all()
        .iter()
        .chain(registered)
        .find(|shader| shader.name == name)
        .unwrap_or_else(|| panic!("there is no shader {name}.wgsl"))
}

/// Parses and validates WGSL; an error has the line of `name`.wgsl.
fn parse(name: &str, source: &str) -> Result<(naga::Module, ModuleInfo)> {
    let fail = |location: Option<naga::SourceLocation>, message: String| Error::Config {
        path: format!("{name}.wgsl"),
        line: location.map(|location| location.line_number as usize),
        message,
    };
    let module = naga::front::wgsl::parse_str(source)
        .map_err(|error| fail(error.location(source), error.message().to_owned()))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .map_err(|error| fail(error.location(source), causes(&error)))?;
    Ok((module, info))
}

/// An error and its causes: naga's details are only in the latter.
fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

impl Shader {
    /// Names of all entry points.
    pub fn entry_points(&self) -> impl Iterator<Item = &str> {
        self.module.entry_points.iter().map(|entry| entry.name.as_str())
    }

    fn entry_index(&self, entry_point: &str) -> usize {
        self.module
            .entry_points
            .iter()
            .position(|entry| entry.name == entry_point)
            .unwrap_or_else(|| panic!("{}.wgsl has no entry point {entry_point}", self.name))
    }

    /// Workgroup size along x, y, z.
    pub fn workgroup_size(&self, entry_point: &str) -> [u32; 3] {
        self.module.entry_points[self.entry_index(entry_point)].workgroup_size
    }

    /// The storage buffers that an entry point uses, directly or through functions, by binding number.
    pub fn bindings(&self, entry_point: &str) -> Vec<Binding> {
        let uses = self.info.get_entry_point(self.entry_index(entry_point));
        let mut bindings = Vec::new();
        for (handle, variable) in self.module.global_variables.iter() {
            let (Some(binding), naga::AddressSpace::Storage { access }) = (&variable.binding, variable.space)
            else {
                continue;
            };
            if !uses[handle].is_empty() {
                bindings.push(Binding {
                    variable: variable.name.clone().unwrap_or_default(),
                    index: binding.binding,
                    writable: access.contains(naga::StorageAccess::STORE),
                    read: uses[handle].contains(GlobalUse::READ),
                    written: uses[handle].contains(GlobalUse::WRITE),
                });
            }
        }
        bindings.sort_by_key(|binding| binding.index);
        bindings
    }

    /// Names of the override constants, and whether each must be given a value.
    pub fn overrides(&self) -> impl Iterator<Item = (&str, bool)> {
        self.module
            .overrides
            .iter()
            .filter_map(|(_, constant)| Some((constant.name.as_deref()?, constant.init.is_none())))
    }
}
