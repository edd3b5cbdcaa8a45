// SPDX-License-Identifier: Apache-2.0
//! Where the running kernel keeps the fields that the programs read, from its own BTF.

use std::collections::HashMap;

use btf_rs::{Btf, BtfType, Member, Struct, Type};

use super::KernelError;

/// Every kernel that runs us has pointers of this size.
const POINTER: u32 = 8;

/// The pointers to a family's hooks, one for each of the five places where a packet passes.
const HOOKS: u32 = 5 * POINTER;

/// A field that the programs read.
pub(super) struct Field {
    /// The global in the object that takes the offset.
    global: &'static str,
    structure: &'static str,
    /// Members from the outside in; anonymous ones are looked through.
    path: &'static [&'static str],
    /// The size that the programs read.
    size: u32,
    /// Whether a kernel may lack it, which the programs know by an offset of zero.
    optional: bool,
}

pub(super) const fn field(
    global: &'static str,
    structure: &'static str,
    path: &'static [&'static str],
    size: u32,
) -> Field {
    Field {
        global,
        structure,
        path,
        size,
        optional: false,
    }
}

/// A field that a kernel may lack.
const fn optional(
    global: &'static str,
    structure: &'static str,
    path: &'static [&'static str],
    size: u32,
) -> Field {
    Field {
        optional: true,
        ..field(global, structure, path, size)
    }
}

const FIELDS: [Field; 23] = [
    field("SOCK_NUM", "sock", &["__sk_common", "skc_num"], 2),
    field("SOCK_FAMILY", "sock", &["__sk_common", "skc_family"], 2),
    field("SOCK_STATE", "sock", &["__sk_common", "skc_state"], 1),
    field("SOCK_NET", "sock", &["__sk_common", "skc_net", "net"], POINTER),
    field("SOCK_RCV_SADDR", "sock", &["__sk_common", "skc_rcv_saddr"], 4),
    // A kernel without IPv6 has no such field.
    optional(
        "SOCK_V6_RCV_SADDR",
        "sock",
        &["__sk_common", "skc_v6_rcv_saddr"],
        16,
    ),
    field("SOCK_DADDR", "sock", &["__sk_common", "skc_daddr"], 4),
    optional("SOCK_V6_DADDR", "sock", &["__sk_common", "skc_v6_daddr"], 16),
    field("SOCK_DPORT", "sock", &["__sk_common", "skc_dport"], 2),
    field("SOCK_MARK", "sock", &["sk_mark"], 4),
    field("SOCK_PROTOCOL", "sock", &["sk_protocol"], 2),
    field("SOCKET_SK", "socket", &["sk"], POINTER),
    field("NET_INUM", "net", &["ns", "inum"], 4),
    optional("NET_HOOKS_IPV4", "net", &["nf", "hooks_ipv4"], HOOKS),
    optional("NET_HOOKS_IPV6", "net", &["nf", "hooks_ipv6"], HOOKS),
    optional("NET_COOKIE", "net", &["net_cookie"], 8),
    optional("NET_NFT_GENERATION", "net", &["nft", "base_seq"], 4),
    field("TASK_TGID", "task_struct", &["tgid"], 4),
    optional("TASK_NSPROXY", "task_struct", &["nsproxy"], POINTER),
    optional("NSPROXY_NET", "nsproxy", &["net_ns"], POINTER),
    field("FILE_INODE", "file", &["f_inode"], POINTER),
    field("INODE_INO", "inode", &["i_ino"], 8),
    field("META_SEQ", "bpf_iter_meta", &["seq"], POINTER),
];

/// The iterators' contexts, whose offsets the verifier wants to see as constants in the programs.
const CONTEXT: [(Field, u32); 6] = [
    (field("", "bpf_iter__task_file", &["meta"], POINTER), 0),
    (field("", "bpf_iter__task_file", &["task"], POINTER), 8),
    (field("", "bpf_iter__task_file", &["fd"], 4), 16),
    (field("", "bpf_iter__task_file", &["file"], POINTER), 24),
    (field("", "bpf_iter__task", &["meta"], POINTER), 0),
    (field("", "bpf_iter__task", &["task"], POINTER), 8),
];

/// What the kernel's BTF says.
#[derive(Debug)]
pub(super) struct Offsets {
    /// Globals of the object and their values.
    pub(super) globals: Vec<(&'static str, u32)>,
    /// Whether the kernel can limit an iterator to one process (6.1).
    pub(super) process_filter: bool,
}

/// Resolves every offset, or names the first field that cannot be.
pub(super) fn resolve(btf: &Btf) -> Result<Offsets, KernelError> {
    let mut known = Known::new(btf);
    for (field, expected) in &CONTEXT {
        let offset = offset_of(&mut known, field)?;
        if offset != *expected {
            return Err(missing(
                field,
                format!("it stands at {offset} instead of {expected}"),
            ));
        }
    }
    let globals = FIELDS
        .iter()
        .map(|field| match offset_of(&mut known, field) {
            Err(KernelError::MissingField { .. }) if field.optional => Ok((field.global, 0)),
            offset => Ok((field.global, offset?)),
        })
        .collect::<Result<_, KernelError>>()?;
    let process_filter = known
        .structures("bpf_iter_link_info")
        .iter()
        .any(|union| member(btf, union, "task").is_some());
    Ok(Offsets {
        globals,
        process_filter,
    })
}

fn missing(field: &Field, found: impl Into<String>) -> KernelError {
    KernelError::MissingField {
        field: format!("{}.{}", field.structure, field.path.join(".")),
        found: found.into(),
    }
}

pub(super) fn offset_of(known: &mut Known<'_>, field: &Field) -> Result<u32, KernelError> {
    let btf = known.btf;
    let candidates = known.structures(field.structure);
    if candidates.is_empty() {
        return Err(missing(
            field,
            format!("there is no structure {}", field.structure),
        ));
    }
    // Two different structures may share a name; only one of them has the field.
    let mut error = None;
    for candidate in candidates {
        match within(btf, candidate.clone(), field) {
            Ok(offset) => return Ok(offset),
            Err(found) => error = error.or(Some(found)),
        }
    }
    Err(missing(field, error.unwrap_or_default()))
}

fn within(btf: &Btf, mut structure: Struct, field: &Field) -> Result<u32, String> {
    let mut offset = 0;
    for (depth, name) in field.path.iter().enumerate() {
        let (at, member) = member(btf, &structure, name).ok_or_else(|| format!("{name} is not there"))?;
        let bits = member.bitfield_size().filter(|bits| *bits != 0);
        if bits.is_some_and(|bits| bits != field.size * 8) || at % 8 != 0 {
            return Err(format!("{name} is a bit field"));
        }
        offset += at / 8;
        if bits.is_some() {
            // As wide as what is read, and at a whole byte.
            continue;
        }
        let kind = plain_type(btf, &member).ok_or_else(|| format!("{name} has no type"))?;
        if depth + 1 < field.path.len() {
            let (Type::Struct(inner) | Type::Union(inner)) = kind else {
                return Err(format!("{name} is no structure"));
            };
            structure = inner;
        } else {
            let size = size_of(btf, &kind).ok_or_else(|| format!("{name} has no size"))?;
            // An enumeration takes more than the byte that its few values need.
            let narrower = matches!(kind, Type::Enum(_)) && field.size < size;
            if !narrower && size != field.size {
                return Err(format!("{name} has {size} bytes instead of {}", field.size));
            }
        }
    }
    Ok(offset)
}

/// The structures that were looked for: to find one by its name, all types are gone through.
pub(super) struct Known<'a> {
    btf: &'a Btf,
    structures: HashMap<&'static str, Vec<Struct>>,
}

impl<'a> Known<'a> {
    pub(super) fn new(btf: &'a Btf) -> Self {
        Self {
            btf,
            structures: HashMap::new(),
        }
    }

    fn structures(&mut self, name: &'static str) -> &[Struct] {
        self.structures.entry(name).or_insert_with(|| {
            let types = self.btf.resolve_types_by_name(name).unwrap_or_default();
            types
                .into_iter()
                .filter_map(|kind| match kind {
                    Type::Struct(found) | Type::Union(found) => Some(found),
                    _ => None,
                })
                .collect()
        })
    }
}

/// A member and its offset in bits, looked for in anonymous members too.
fn member(btf: &Btf, structure: &Struct, name: &str) -> Option<(u32, Member)> {
    structure
        .members
        .iter()
        .find_map(|member| match btf.resolve_name(member) {
            Ok(found) if found == name => Some((member.bit_offset(), member.clone())),
            Ok(found) if !found.is_empty() => None,
            _ => match plain_type(btf, member)? {
                Type::Struct(inner) | Type::Union(inner) => {
                    let (at, found) = self::member(btf, &inner, name)?;
                    Some((member.bit_offset() + at, found))
                }
                _ => None,
            },
        })
}

/// The type of a member or of an array's elements without typedefs and qualifiers.
fn plain_type<T: BtfType>(btf: &Btf, member: &T) -> Option<Type> {
    let mut kind = btf.resolve_chained_type(member).ok()?;
    // A chain longer than this is a loop in a damaged file.
    for _ in 0..32 {
        kind = match &kind {
            Type::Typedef(_) | Type::Const(_) | Type::Volatile(_) | Type::Restrict(_) | Type::TypeTag(_) => {
                btf.resolve_chained_type(kind.as_btf_type()?).ok()?
            }
            _ => return Some(kind),
        };
    }
    None
}

fn size_of(btf: &Btf, kind: &Type) -> Option<u32> {
    let size = match kind {
        Type::Ptr(_) => return Some(POINTER),
        Type::Array(array) => {
            let element = plain_type(btf, array)?;
            let length = u32::try_from(array.len()).ok()?;
            return size_of(btf, &element)?.checked_mul(length);
        }
        Type::Int(int) => int.size(),
        Type::Enum(kind) => kind.size(),
        Type::Struct(kind) | Type::Union(kind) => kind.size(),
        _ => return None,
    };
    u32::try_from(size).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BTF_INT: u32 = 1;
    const BTF_STRUCT: u32 = 4;

    /// A member's name, type id and offset in bytes.
    type Flat = (&'static str, u32, u32);

    /// A BTF file with integers of 1, 2, 4, 8 and 16 bytes (type ids 1 to 5), then structures of flat members.
    fn btf(structures: &[(&str, &[Flat])]) -> Btf {
        let mut strings = vec![0_u8];
        let mut types: Vec<u8> = Vec::new();
        let mut string = |text: &str| {
            let at = strings.len() as u32;
            strings.extend(text.bytes().chain([0]));
            at
        };
        let mut put = |words: &[u32]| types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        for bytes in [1, 2, 4, 8, 16_u32] {
            put(&[string(&format!("u{bytes}")), BTF_INT << 24, bytes, bytes * 8]);
        }
        for (name, members) in structures {
            put(&[string(name), BTF_STRUCT << 24 | members.len() as u32, 64]);
            for (name, kind, offset) in *members {
                put(&[if name.is_empty() { 0 } else { string(name) }, *kind, offset * 8]);
            }
        }
        let header = [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ];
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(header.iter().flat_map(|word: &u32| word.to_le_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        Btf::from_bytes(&bytes).expect("a crafted BTF")
    }

    fn message(btf: &Btf, field: &Field) -> String {
        let known = &mut Known::new(btf);
        offset_of(known, field)
            .expect_err("should not resolve")
            .to_string()
    }

    #[test]
    fn offsets_add_up_through_anonymous_members() {
        // Types 6 and 7: the anonymous inner structure's id is 6.
        let btf = btf(&[
            ("", &[("a", 2, 0), ("b", 2, 2)]),
            ("outer", &[("x", 4, 0), ("", 6, 8), ("named", 6, 16)]),
        ]);
        let known = &mut Known::new(&btf);
        assert_eq!(offset_of(known, &field("", "outer", &["b"], 2)).ok(), Some(10));
        assert_eq!(
            offset_of(known, &field("", "outer", &["named", "b"], 2)).ok(),
            Some(18)
        );
        assert!(resolve(&btf).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let btf = btf(&[("sock", &[("sk_protocol", 1, 4), ("other", 4, 8)])]);
        assert!(message(&btf, &field("", "net", &["ns", "inum"], 4)).contains("net.ns.inum"));
        let text = message(&btf, &field("", "sock", &["sk_state"], 1));
        assert!(
            text.contains("sock.sk_state") && text.contains("not there"),
            "{text}"
        );
        let text = message(&btf, &field("", "sock", &["sk_protocol"], 2));
        assert!(text.contains("1 bytes instead of 2"), "{text}");
        let text = message(&btf, &field("", "sock", &["other", "deep"], 2));
        assert!(text.contains("no structure"), "{text}");
    }
}
