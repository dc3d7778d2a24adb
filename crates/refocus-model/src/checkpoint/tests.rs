#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::testing::*;
use super::*;
use crate::names::{Part, Which};

/// An error and its causes as one line.
fn full(e: &dyn Error) -> String {
    match e.source() {
        Some(cause) => format!("{e}: {}", full(cause)),
        None => e.to_string(),
    }
}

fn refused(path: &Path) -> String {
    full(&Checkpoint::open(path).map(|c| c.spec().clone()).unwrap_err())
}

fn header_error(header: &str, data: usize) -> String {
    full(&safetensors::parse(Path::new("f"), &safetensors_raw(header, &vec![0; data])).unwrap_err())
}

#[test]
fn every_fixture_opens_and_every_parameter_has_its_shape() {
    let folders = fixtures_with("config.json").into_iter().map(|n| fixture(&n));
    let files = fixtures_with("model.gguf").into_iter().map(|n| fixture(&n).join("model.gguf"));
    let mut count = 0;
    for path in folders.chain(files) {
        let c = Checkpoint::open(&path).unwrap_or_else(|e| panic!("{}", full(&e)));
        let spec = c.spec();
        let at = |part: Part, layer: usize| {
            let [n, k] = part.shape(spec);
            let matrix = c.matrix(part, layer).unwrap();
            assert_eq!(
                matrix.is_some(),
                part.exists(spec) && !part.is_norm(),
                "{}: {part:?}",
                path.display()
            );
            if let Some(m) = matrix {
                m.check().unwrap();
                assert_eq!(m.shape(), (n, k), "{}: {}", path.display(), m.name);
                let mut row = vec![f32::NAN; k];
                for i in [0, n - 1] {
                    m.row_f32(i, &mut row);
                    assert!(row.iter().all(|x| x.is_finite()), "{}: {}", path.display(), m.name);
                }
                c.release(m.name);
            }
            for which in [Which::Weight, Which::Bias] {
                let vector = c.vector(part, layer, which).unwrap();
                assert!(!(part.is_norm() && part.exists(spec) && which == Which::Weight) || vector.is_some());
                if let Some(v) = vector {
                    assert_eq!(v.len(), n, "{}: {part:?} {which:?}", path.display());
                }
            }
        };
        Part::GLOBAL.iter().for_each(|p| at(*p, 0));
        (0..spec.n_layers).for_each(|l| Part::BLOCK.iter().for_each(|p| at(*p, l)));
        count += 1;
    }
    assert!(count > 20, "{count} fixtures");
}

#[test]
fn shards_hold_the_same_model_as_one_file() {
    let one = Checkpoint::open(fixture("llama2")).unwrap();
    let many = Checkpoint::open(fixture("llama2-sharded")).unwrap();
    assert_eq!(one.fingerprint().unwrap(), many.fingerprint().unwrap());
    for info in one.tensors() {
        assert_eq!(one.tensor(info.name).unwrap().bytes, many.tensor(info.name).unwrap().bytes);
    }
}

#[test]
fn fingerprint_ignores_spelling_and_sees_values() {
    let temp = llama_folder(json!({}), |_| {});
    let print = || Checkpoint::open(temp.path()).unwrap().fingerprint().unwrap();
    let first = print();
    assert!(first.starts_with("sha256:") && first.len() == 71, "{first}");
    let config: Map<String, Value> = llama_config(json!({})).as_object().unwrap().clone();
    let reversed: Map<String, Value> = config.into_iter().rev().collect();
    temp.write("config.json", serde_json::to_string_pretty(&reversed).unwrap());
    assert_eq!(print(), first);
    temp.write("config.json", llama_config(json!({"rms_norm_eps": 0.5})).to_string());
    assert_ne!(print(), first);
    temp.write("config.json", llama_config(json!({})).to_string());
    let file = temp.path().join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_ne!(print(), first);
}

#[test]
fn released_bytes_are_read_again() {
    let c = Checkpoint::open(fixture("gpt2")).unwrap();
    let name = c.tensors().next().unwrap().name.to_owned();
    let before = c.tensor(&name).unwrap().bytes.to_vec();
    c.release(&name);
    c.release("no such tensor");
    assert_eq!(c.tensor(&name).unwrap().bytes, before);
}

#[test]
fn a_file_that_grew_is_noticed() {
    let temp = llama_folder(json!({}), |_| {});
    let c = Checkpoint::open(temp.path()).unwrap();
    let file = temp.path().join("model.safetensors");
    fs::OpenOptions::new().append(true).open(file).unwrap().set_len(10_000).unwrap();
    assert!(c.matrix(Part::Embed, 0).unwrap_err().to_string().contains("changed while it was open"));
    assert!(c.fingerprint().is_err());
}

#[test]
fn a_path_that_is_no_model_says_what_is_missing() {
    let temp = Temp::new();
    let path = temp.path();
    assert!(refused(&path.join("nothing")).contains("cannot be read"));
    assert!(refused(path).contains("no config.json"));
    assert!(refused(&temp.write("notes.txt", "GG")).contains("no GGUF file"));
    assert!(refused(&temp.write("a.safetensors", "")).contains("give the folder"));
    temp.write("config.json", llama_config(json!({})).to_string());
    assert!(
        refused(path).contains("no weights: none of model.safetensors, model.safetensors.index.json, pyt")
    );
    temp.write("pytorch_model.bin", "");
    assert!(refused(path).contains("pytorch_model.bin: at byte 0: this is no file of torch.save"));
    temp.write("a.bin", b"PK\x03\x04");
    assert!(refused(&path.join("a.bin")).contains("give the folder"));
    temp.write("model.safetensors", "");
    assert!(refused(path).contains("0 bytes are too few"));
    temp.write("config.json", "[]");
    assert!(refused(path).contains("a configuration is a JSON object"));
    temp.write("config.json", "{\"a\": 1,\n \"a\": 2}");
    let twice = refused(path);
    assert!(twice.contains("\"a\" is given twice") && twice.contains("line 2"), "{twice}");
    temp.write("config.json", "{\"a\": NaN}");
    assert!(refused(path).contains("not valid JSON"));
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        header_error(&format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), 8)
    };
    assert!(one("F32", "[2]", "[0,16]").contains("do not lie in the 8 bytes"));
    assert!(one("F32", "[2]", "[8,0]").contains("do not lie"));
    assert!(one("F32", "[3]", "[0,8]").contains("does not take the 8 bytes"));
    assert!(one("F32", "[4294967296,4294967296,4294967296]", "[0,8]").contains("does not take"));
    assert!(one("F32", "[18446744073709551615]", "[0,8]").contains("does not take"));
    assert!(one("F99", "[2]", "[0,8]").contains("unknown dtype \"F99\""));
    assert!(one("F32", "[-2]", "[0,8]").contains("t: invalid value"));
    assert!(one("F32", "[2.0]", "[0,8]").contains("t: invalid type"));
    assert!(one("F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]").contains("more than 8 dimensions"));
    assert!(one("F32", "2", "[0,8]").contains("t: invalid type"));
    assert!(one("F32", "[1]", "[0,4]").contains("4 bytes after the last tensor"));
    assert!(one("F32", "[1]", "[4,8]").contains("4 bytes belong to no tensor"));
    assert!(one("F32", "[2]", "[0,8],\"more\":1").contains("unknown field"));
    assert!(one("F4", "[3]", "[0,8]").contains("does not take"));
    assert!(header_error("[1]", 0).contains("an object that describes tensors"));
    assert!(header_error("{", 0).contains("not valid JSON"));
    assert!(header_error("\u{1}", 0).contains("not valid JSON"));
    assert!(header_error(r#"{"__metadata__":{"format":1}}"#, 0).contains("__metadata__: invalid type"));
    let twice = r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert!(header_error(twice, 8).contains("t is given twice"));
    let overlap = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    let overlap = header_error(overlap, 8);
    assert!(overlap.contains("tensor b") && overlap.contains("overlap"), "{overlap}");
    for length in [u64::MAX, 1 << 40, 200_000_000, 1000] {
        let bytes = [&length.to_le_bytes(), b"{}".as_slice()].concat();
        let e = safetensors::parse(Path::new("f"), &bytes).unwrap_err().to_string();
        assert!(e.contains(&format!("a header of {length} bytes")), "{e}");
    }
}

#[test]
fn no_cut_or_flipped_bit_of_safetensors_panics() {
    let whole = safetensors(&[("a", &[2, 3]), ("b", &[4])]);
    assert_eq!(safetensors::parse(Path::new("f"), &whole).unwrap().len(), 2);
    for end in 0..whole.len() {
        assert!(safetensors::parse(Path::new("f"), &whole[..end]).is_err());
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = safetensors::parse(Path::new("f"), &bytes);
    }
}

fn gguf_error(bytes: &[u8]) -> String {
    gguf::parse(Path::new("f"), bytes).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn lying_gguf_files_are_refused() {
    let good = llama_tensors(llama_keys());
    assert_eq!(gguf::parse(Path::new("f"), &good.build()).unwrap().1.len(), 11);
    let version = |v: u32| {
        let mut other = good.clone();
        other.version = v;
        gguf_error(&other.build())
    };
    assert!(version(1).contains("version 1; versions 2 and 3"));
    assert!(version(4).contains("version 4"));
    assert!(version(3u32.swap_bytes()).contains("big-endian"));
    assert!(gguf_error(b"GGML....").contains("no GGUF file"));
    for n in [1 << 20, 1 << 40, u64::MAX] {
        assert!(gguf_error(&good.build_with(n, 0)).contains(&format!("{n} tensors do not fit")));
        assert!(gguf_error(&good.build_with(0, n)).contains(&format!("{n} keys do not fit")));
    }
    let key = |name: &str, kind: u32, value: &[u8]| gguf_error(&Gguf::new().key(name, kind, value).build());
    assert!(key("k", 13, &[0]).contains("unknown type 13"));
    assert!(key("k", 7, &[2]).contains("a boolean of value 2"));
    let array = |kind: u32, n: u64| [&kind.to_le_bytes(), n.to_le_bytes().as_slice()].concat();
    assert!(key("k", 9, &array(9, 1)).contains("an array of arrays"));
    assert!(key("k", 9, &array(8, 1 << 60)).contains("do not fit into"));
    assert!(key("k", 9, &array(12, u64::MAX)).contains("do not fit into"));
    assert!(key("k", 8, &u64::MAX.to_le_bytes()).contains("do not fit into"));
    assert!(key(&"k".repeat(5000), 7, &[0]).contains("of 5000 bytes"));
    assert!(gguf_error(&Gguf::new().u32("k", 1).u32("k", 2).build()).contains("key k is given twice"));
    for n in [0, 3, 4, 1 << 30] {
        assert!(
            gguf_error(&Gguf::new().u32("general.alignment", n).build()).contains("general.alignment = ")
        );
    }
    assert!(gguf_error(&Gguf::new().text("general.alignment", "8").build()).contains("whole number"));

    let tensor = |dims: &[u64], kind: u32, offset: u64| {
        gguf_error(&Gguf::new().entry("t", dims, kind, offset).data(&[0; 128]).build())
    };
    assert!(tensor(&[], 0, 0).contains("0 dimensions"));
    assert!(tensor(&[1; 5], 0, 0).contains("5 dimensions"));
    assert!(tensor(&[4, 0], 0, 0).contains("a dimension of 0"));
    assert!(tensor(&[1 << 40, 1 << 40], 0, 0).contains("cannot be stored"));
    assert!(tensor(&[u64::MAX], 0, 0).contains("cannot be stored"));
    for (kind, name, block) in [(2, "q4_0", 32), (8, "q8_0", 32), (10, "q2_k", 256), (14, "q6_k", 256)] {
        let e = tensor(&[block + 16, 2], kind, 0);
        let row = block + 16;
        let want =
            format!("tensor t: shape [2, {row}] of {name}, which stores rows in blocks of {block} values");
        assert!(e.contains(&want), "{e}");
    }
    assert!(tensor(&[8], 0, u64::MAX - 3).contains("cannot be stored"));
    assert!(tensor(&[8], 0, 4).contains("no multiple of the alignment 32"));
    assert!(tensor(&[8], 0, 128).contains("beyond the end of the file"));
    assert!(tensor(&[33], 0, 0).contains("beyond the end of the file"));
    // Types that cannot be computed with have a size too; the model that needs such a tensor is refused.
    assert!(tensor(&[33], 20, 0).contains("shape [33] of IQ4_NL"));
    assert!(tensor(&[256], 20, 0).contains("beyond the end of the file"));
    assert!(tensor(&[8], 77, 0).contains("stored as type 77"));
    let two = |second: &str, offset: u64| {
        let gguf = Gguf::new().entry("t", &[16], 0, 0).entry(second, &[16], 0, offset);
        gguf_error(&gguf.data(&[0; 256]).build())
    };
    assert!(two("t", 64).contains("tensor t is given twice"));
    assert!(two("u", 32).contains("tensor u: its bytes overlap those of tensor t"));
}

#[test]
fn no_cut_or_flipped_bit_of_gguf_panics() {
    let whole = llama_tensors(llama_keys()).build();
    let head = whole.len() - 1800;
    for end in 0..whole.len() {
        let cut = gguf::parse(Path::new("f"), &whole[..end]);
        assert!(cut.is_err(), "{end} of {} bytes", whole.len());
    }
    for bit in 0..head * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok((keys, tensors)) = gguf::parse(Path::new("f"), &bytes) {
            let tensors = tensors.into_iter().collect();
            let _ = config::from_gguf(&keys.view(Path::new("f"), &bytes), &tensors, None);
        }
    }
}

#[test]
fn gguf_keys_are_typed() {
    let gguf = llama_tensors(llama_keys())
        .key("i8", 1, &[0xff])
        .key("u64", 10, &u64::MAX.to_le_bytes())
        .ints("ints", &[-3, 7])
        .text("text", "é")
        .key("latin", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xe9]);
    let bytes = gguf.build();
    let (keys, _) = gguf::parse(Path::new("f"), &bytes).unwrap();
    let view = keys.view(Path::new("f"), &bytes);
    assert!(view.count("i8").unwrap_err().to_string().contains("i8 = -1"));
    assert_eq!(view.count("u64").unwrap(), Some(usize::MAX));
    assert_eq!(view.ints("ints").unwrap(), Some(vec![-3, 7]));
    assert_eq!(view.string("text").unwrap(), Some("é"));
    assert!(view.string("latin").unwrap_err().to_string().contains("no UTF-8"));
    assert_eq!(view.strings("tokenizer.ggml.tokens").unwrap().unwrap()[2], "ab");
    assert!(view.strings("ints").is_err() && view.ints("text").is_err() && view.flag("text").is_err());
    assert_eq!(view.number("none").unwrap(), None);
}

#[test]
fn shards_are_checked_against_their_index() {
    let temp = Temp::new();
    temp.write("config.json", llama_config(json!({})).to_string());
    let named: Vec<_> = LLAMA.iter().map(|(n, s)| (format!("model.{n}"), *s)).collect();
    let part = |range: std::ops::Range<usize>| {
        safetensors(&named[range].iter().map(|(n, s)| (n.as_str(), *s)).collect::<Vec<_>>())
    };
    temp.write("a.safetensors", part(0..5));
    temp.write("b.safetensors", part(5..11));
    let index = |change: &dyn Fn(&mut Map<String, Value>)| {
        let file = |i: usize| if i < 5 { "a.safetensors" } else { "b.safetensors" };
        let mut map = named.iter().enumerate().map(|(i, (n, _))| (n.clone(), file(i).into())).collect();
        change(&mut map);
        temp.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    };
    index(&|_| {});
    assert_eq!(Checkpoint::open(temp.path()).unwrap().tensors().count(), 11);
    index(&|m| drop(m.insert("model.norm.weight".into(), "c.safetensors".into())));
    let e = refused(temp.path());
    assert!(e.contains("names shard c.safetensors for tensor model.norm.weight"), "{e}");
    index(&|m| drop(m.insert("model.norm.weight".into(), "a.safetensors".into())));
    assert!(refused(temp.path()).contains("a.safetensors: tensor model.norm.weight: "));
    for outside in ["../a.safetensors", "/etc/passwd", "..", ""] {
        index(&|m| drop(m.insert("x".into(), outside.into())));
        assert!(refused(temp.path()).contains("weight_map.x = "), "{outside}");
    }
    index(&|_| {});
    temp.write("b.safetensors", part(4..11));
    assert!(refused(temp.path()).contains("it is in "));
    temp.write("model.safetensors.index.json", "{}");
    assert!(refused(temp.path()).contains("key weight_map is missing"));
}

/// A model in three parts, as `gguf-split` names and numbers them.
fn in_parts(temp: &Temp, edit: impl Fn(usize, Gguf) -> Gguf) -> std::path::PathBuf {
    let u16 = |g: Gguf, key: &str, n: usize| g.key(key, 2, &(n as u16).to_le_bytes());
    let tensors = [&["token_embd", "output_norm"][..], &["blk.0.attn"], &["blk.0.ffn"]];
    for (i, stems) in tensors.iter().enumerate() {
        let mut part = if i == 0 { llama_keys() } else { Gguf::new() };
        part = u16(u16(part, "split.no", i), "split.count", 3);
        part = part.key("split.tensors.count", 5, &11i32.to_le_bytes());
        for (name, shape, first) in LLAMA_GGUF {
            if stems.iter().any(|s| name.starts_with(s)) {
                part = part.f32s(name, shape, first);
            }
        }
        temp.write(&format!("m-0000{}-of-00003.gguf", i + 1), edit(i, part).build());
    }
    temp.path().join("m-00001-of-00003.gguf")
}

#[test]
fn parts_of_a_gguf_are_one_model() {
    let temp = Temp::new();
    let first = in_parts(&temp, |_, g| g);
    let whole = Checkpoint::open(temp.write("whole.gguf", llama_tensors(llama_keys()).build())).unwrap();
    let parts = Checkpoint::open(&first).unwrap();
    assert_eq!(parts.fingerprint().unwrap(), whole.fingerprint().unwrap());
    for t in whole.tensors() {
        assert_eq!(parts.tensor(t.name).unwrap().bytes, whole.tensor(t.name).unwrap().bytes, "{}", t.name);
    }
    let part = |n: usize| temp.path().join(format!("m-0000{n}-of-00003.gguf"));
    let e = refused(&part(2));
    assert!(e.contains("split.no = 1: open the first part, m-00001-of-00003.gguf"), "{e}");
    fs::copy(&first, temp.path().join("renamed.gguf")).unwrap();
    let e = refused(&temp.path().join("renamed.gguf"));
    assert!(e.contains("split.count = 3") && e.contains("NAME-00001-of-00003.gguf is needed"), "{e}");
    let second = fs::read(part(2)).unwrap();
    fs::remove_file(part(2)).unwrap();
    let e = refused(&first);
    assert!(e.contains("split.count = 3: part 2 cannot be read, m-00002-of-00003.gguf: "), "{e}");
    fs::write(part(2), &second[..second.len() / 2]).unwrap();
    assert!(refused(&first).contains("m-00002-of-00003.gguf: "));
    fs::copy(part(3), part(2)).unwrap();
    assert!(refused(&first).contains("part 2 of 3 should be numbered 1"));
    let huge = llama_keys().key("split.no", 10, &u64::MAX.to_le_bytes()).key(
        "split.count",
        10,
        &u64::MAX.to_le_bytes(),
    );
    assert!(refused(&temp.write("huge.gguf", huge.build())).contains("split.count = 18446744073709551615"));
    in_parts(&temp, |i, g| if i == 1 { g.f32s("output_norm.weight", &[8], 0) } else { g });
    assert!(refused(&first).contains("tensor output_norm.weight: it is in "));
    in_parts(&temp, |i, g| if i == 2 { g.f32s("more", &[8], 0) } else { g });
    assert!(refused(&first).contains("split.tensors.count = 11: its 3 parts hold 12"));
}

/// The fingerprint is over names, shapes and values, not over how a format spells them.
#[test]
fn a_pickle_has_the_fingerprint_of_the_same_tensors_in_safetensors() {
    use ::safetensors::tensor::{Dtype, TensorView as Stored};
    let pickle = Checkpoint::open(fixture("gpt2-pickle")).unwrap();
    let owned: Vec<_> = pickle.tensors().map(|t| pickle.tensor(t.name).unwrap()).collect();
    let views = owned.iter().map(|t| (t.name, Stored::new(Dtype::F32, t.shape.to_vec(), t.bytes).unwrap()));
    let temp = Temp::new();
    temp.write("model.safetensors", ::safetensors::serialize(views, None).unwrap());
    temp.write("config.json", fs::read(fixture("gpt2-pickle/config.json")).unwrap());
    let folder = Checkpoint::open(temp.path()).unwrap();
    assert_eq!(folder.fingerprint().unwrap(), pickle.fingerprint().unwrap());
    assert!(folder.spec().tied && pickle.spec().tied);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// The same for pickles: the changes fall on the description as often as on the numbers.
    #[test]
    fn no_change_of_a_real_pickle_panics(
        changes in prop::collection::vec((0usize..4500, any::<u8>()), 1..8),
        old in any::<bool>(),
    ) {
        let temp = Temp::new();
        let from = fixture(if old { "gpt2-pickle-old" } else { "gpt2-pickle" });
        let mut bytes = fs::read(from.join("pytorch_model.bin")).unwrap();
        // The directory of a zip archive stands at its end.
        let n = bytes.len();
        for (i, (at, byte)) in changes.into_iter().enumerate() {
            bytes[if old || i % 2 == 0 { at } else { n - 1 - at }] = byte;
        }
        temp.write("pytorch_model.bin", bytes);
        temp.write("config.json", fs::read(from.join("config.json")).unwrap());
        read_all(temp.path());
    }

    /// Opening a real file with some bytes changed, and reading all of it, gives a value or one error.
    #[test]
    fn no_change_of_a_real_gguf_panics(changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..12), cut in 0usize..8) {
        let mut bytes = fs::read(fixture("gguf-llama-q4_1/model.gguf")).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if cut == 0 {
            bytes.truncate(bytes.len() / 2);
        }
        let temp = Temp::new();
        read_all(&temp.write("model.gguf", bytes));
    }

    #[test]
    fn no_change_of_a_real_folder_panics(
        changes in prop::collection::vec((0usize..2500, any::<u8>()), 1..8),
        config in prop::collection::vec((0usize..400, 0x20u8..0x7f), 0..3),
    ) {
        let temp = Temp::new();
        for (name, changes) in [("model.safetensors", &changes), ("config.json", &config)] {
            let mut bytes = fs::read(fixture("smollm2").join(name)).unwrap();
            for (at, byte) in changes {
                let n = bytes.len();
                bytes[at % n] = *byte;
            }
            temp.write(name, bytes);
        }
        read_all(temp.path());
    }
}

/// Reads whatever a checkpoint gives.
fn read_all(path: &Path) {
    let Ok(c) = Checkpoint::open(path) else { return };
    let _ = c.tokenizer().map(|t| t.encode("the cat", true));
    let _ = c.fingerprint();
    for layer in 0..c.spec().n_layers {
        for part in Part::GLOBAL.into_iter().chain(Part::BLOCK) {
            if let Ok(Some(m)) = c.matrix(part, layer) {
                m.check().unwrap();
            }
            let _ = (c.vector(part, layer, Which::Weight), c.vector(part, layer, Which::Bias));
        }
    }
}
