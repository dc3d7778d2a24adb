//! The names that a pickle of tensors may use.

use refocus_compute::Dtype;

use crate::checkpoint::Stored;

/// A type of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) stored: Stored,
    /// Bytes of one number.
    pub(super) bytes: usize,
}

/// A name that a pickle of tensors may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    Size,
    /// A type of storage; `None` for plain bytes.
    Storage(Option<Element>),
    Dtype(Element),
}

impl Global {
    pub(super) fn name(self) -> &'static str {
        match self {
            Global::OrderedDict => "OrderedDict",
            Global::RebuildTensor => "_rebuild_tensor",
            Global::RebuildTensorV2 => "_rebuild_tensor_v2",
            Global::RebuildTensorV3 => "_rebuild_tensor_v3",
            Global::RebuildParameter => "_rebuild_parameter",
            Global::Size => "torch.Size",
            Global::Storage(_) => "a torch storage",
            Global::Dtype(_) => "a torch dtype",
        }
    }
}

/// Storage class (empty where torch has none), dtype, type under the name that safetensors gives it, and
/// bytes of one number.
const ELEMENTS: [(&str, &str, Stored, usize); 19] = [
    ("DoubleStorage", "float64", Stored::Other("F64"), 8),
    ("FloatStorage", "float32", Stored::Known(Dtype::F32), 4),
    ("HalfStorage", "float16", Stored::Known(Dtype::F16), 2),
    ("BFloat16Storage", "bfloat16", Stored::Known(Dtype::Bf16), 2),
    ("LongStorage", "int64", Stored::Other("I64"), 8),
    ("IntStorage", "int32", Stored::Other("I32"), 4),
    ("ShortStorage", "int16", Stored::Other("I16"), 2),
    ("CharStorage", "int8", Stored::Other("I8"), 1),
    ("ByteStorage", "uint8", Stored::Other("U8"), 1),
    ("BoolStorage", "bool", Stored::Other("BOOL"), 1),
    ("ComplexFloatStorage", "complex64", Stored::Other("C64"), 8),
    ("ComplexDoubleStorage", "complex128", Stored::Other("C128"), 16),
    ("", "uint16", Stored::Other("U16"), 2),
    ("", "uint32", Stored::Other("U32"), 4),
    ("", "uint64", Stored::Other("U64"), 8),
    ("", "float8_e4m3fn", Stored::Other("F8_E4M3"), 1),
    ("", "float8_e4m3fnuz", Stored::Other("F8_E4M3FNUZ"), 1),
    ("", "float8_e5m2", Stored::Other("F8_E5M2"), 1),
    ("", "float8_e5m2fnuz", Stored::Other("F8_E5M2FNUZ"), 1),
];

/// The known name, if it is one.
pub(super) fn global(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "Size") => Global::Size,
        ("torch.storage" | "torch", "UntypedStorage") => Global::Storage(None),
        ("torch" | "torch.cuda", _) => {
            let of = |e: &&(&str, &str, Stored, usize)| (e.0 == name && !name.is_empty()) || e.1 == name;
            let &(class, _, stored, bytes) = ELEMENTS.iter().find(of)?;
            let element = Element { stored, bytes };
            if class == name { Global::Storage(Some(element)) } else { Global::Dtype(element) }
        }
        _ => return None,
    })
}

/// Opcodes of the pickle format that the machine does not carry out.
const REFUSED: [(u8, &str); 30] = [
    (b'0', "POP"),
    (b'1', "POP_MARK"),
    (b'2', "DUP"),
    (b'B', "BINBYTES"),
    (b'C', "SHORT_BINBYTES"),
    (b'F', "FLOAT"),
    (b'I', "INT"),
    (b'L', "LONG"),
    (b'P', "PERSID"),
    (b'S', "STRING"),
    (b'V', "UNICODE"),
    (b'd', "DICT"),
    (b'g', "GET"),
    (b'l', "LIST"),
    (b'o', "OBJ"),
    (b'p', "PUT"),
    (0x81, "NEWOBJ"),
    (0x82, "EXT1"),
    (0x83, "EXT2"),
    (0x84, "EXT4"),
    (0x8b, "LONG4"),
    (0x8e, "BINBYTES8"),
    (0x8f, "EMPTY_SET"),
    (0x90, "ADDITEMS"),
    (0x91, "FROZENSET"),
    (0x92, "NEWOBJ_EX"),
    (0x96, "BYTEARRAY8"),
    (0x97, "NEXT_BUFFER"),
    (0x98, "READONLY_BUFFER"),
    (b'i', "INST"),
];

/// The name of an opcode, for errors.
pub(super) fn opcode(op: u8) -> &'static str {
    REFUSED.iter().find(|r| r.0 == op).map_or("unknown", |r| r.1)
}
