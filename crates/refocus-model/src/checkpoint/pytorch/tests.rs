#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::*;
use crate::checkpoint::testing::{LLAMA, Temp, fixture, llama_config, llama_folder};
use crate::checkpoint::{Checkpoint, safetensors};

/// The tensors of a file of bytes.
fn parsed(bytes: &[u8]) -> LoadResult<Vec<(String, Entry)>> {
    let temp = Temp::new();
    parse(&Mapped::open(&temp.write("pytorch_model.bin", bytes)).unwrap())
}

fn refused(bytes: &[u8]) -> String {
    parsed(bytes).map(|t| t.len()).unwrap_err().to_string()
}

// ---- A small assembler of pickles.

fn text(s: &str) -> Vec<u8> {
    [b"X".as_slice(), &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat()
}

fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &n.to_le_bytes()].concat()
}

fn name(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

fn ints(all: &[i64]) -> Vec<u8> {
    tuple(&all.iter().map(|&n| int(n)).collect::<Vec<_>>())
}

fn storage(key: &str, class: &str, numel: i64) -> Vec<u8> {
    let parts = [text("storage"), name("torch", class), text(key), text("cpu"), int(numel)];
    [tuple(&parts), b"Q".to_vec()].concat()
}

fn tensor(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let hooks = [name("collections", "OrderedDict"), b")R".to_vec()].concat();
    let args = tuple(&[storage, int(offset), ints(shape), ints(strides), vec![0x89], hooks]);
    [name("torch._utils", "_rebuild_tensor_v2"), args, b"R".to_vec()].concat()
}

/// A pickle of a dictionary.
fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [b"\x80\x02}(".to_vec(), items, b"u.".to_vec()].concat()
}

/// A file of the old layout with f32 storages.
fn old_file(pickle: &[u8], storages: &[(&str, i64, Vec<f32>)]) -> Vec<u8> {
    old_file_of(b"\x80\x02M\xe9\x03.", true, pickle, storages)
}

fn old_file_of(version: &[u8], little: bool, pickle: &[u8], storages: &[(&str, i64, Vec<f32>)]) -> Vec<u8> {
    let system =
        dict(&[("protocol_version", int(1001)), ("little_endian", vec![if little { 0x88 } else { 0x89 }])]);
    let magic = [OLD, &MAGIC.to_le_bytes()[..10], b"."].concat();
    let keys: Vec<u8> = storages.iter().flat_map(|(key, ..)| text(key)).collect();
    let keys = [b"\x80\x02](".to_vec(), keys, b"e.".to_vec()].concat();
    let mut out = [&magic, version, &system, pickle, &keys].concat();
    for (_, numel, values) in storages {
        out.extend(numel.to_le_bytes());
        values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    out
}

/// A zip archive of entries that are stored as they are, but for `method`.
fn archive(entries: &[(&str, &[u8])], method: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = out.len() as u32;
        let sizes = [data.len() as u32, data.len() as u32].map(u32::to_le_bytes).concat();
        let lengths = [(name.len() as u16).to_le_bytes(), [0, 0]].concat();
        let common = [&[0, 0, 0, 0], &method.to_le_bytes()[..], &[0; 8], &sizes, &lengths].concat();
        out.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
        let tail = [&[0; 10], &at.to_le_bytes()[..], name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\0\0", &common[..], &tail].concat());
    }
    let n = (entries.len() as u16).to_le_bytes();
    let sizes = [directory.len() as u32, out.len() as u32].map(u32::to_le_bytes).concat();
    [&out, &directory, &b"PK\x05\x06\0\0\0\0"[..], &n, &n, &sizes, &[0, 0]].concat()
}

fn one_storage(pickled: Vec<u8>) -> Vec<u8> {
    old_file(&dict(&[("w", pickled)]), &[("0", 6, (0..6).map(|i| i as f32).collect())])
}

#[test]
fn every_layout_gives_the_tensors_that_torch_wrote() {
    let want = fs::read(fixture("pickles/odd.safetensors")).unwrap();
    let want: BTreeMap<_, _> = safetensors::parse(Path::new("f"), &want)
        .unwrap()
        .into_iter()
        .map(|(n, e)| (n, (e.dtype, e.shape, want[e.range].to_vec())))
        .collect();
    assert_eq!(want.len(), 23);
    for file in ["odd.bin", "odd-old.bin", "odd-protocol4.bin"] {
        let mapped = Mapped::open(&fixture("pickles").join(file)).unwrap();
        let got = parse(&mapped).unwrap();
        assert_eq!(got.len(), want.len(), "{file}");
        for (name, e) in got {
            let bytes = &mapped.bytes()[e.range.clone()];
            let ordered = e.strided.as_ref().map_or(bytes, |s| s.ordered(&e.shape, bytes));
            let (dtype, shape, values) = &want[&name];
            assert_eq!((e.dtype, &e.shape), (*dtype, shape), "{file}: {name}");
            assert_eq!(ordered, values, "{file}: {name}");
            assert_eq!(e.bytes(), values.len(), "{file}: {name}");
            let copied = ["turned", "column", "columns", "steps", "axes", "f16"].contains(&name.as_str());
            assert_eq!(e.strided.is_some(), copied, "{file}: {name} is copied only where it must be");
        }
    }
}

#[test]
fn names_of_one_storage_are_the_same_bytes() {
    let mapped = Mapped::open(&fixture("pickles/odd.bin")).unwrap();
    let tensors: BTreeMap<_, _> = parse(&mapped).unwrap().into_iter().collect();
    assert_eq!(tensors["grid"].range, tensors["again"].range);
    assert_eq!(tensors["grid"].range.start + 2 * 16, tensors["rows"].range.start);
}

#[test]
fn what_would_run_is_named_and_not_run() {
    for file in ["evil.bin", "evil-old.bin"] {
        let e = refused(&fs::read(fixture("pickles").join(file)).unwrap());
        assert!(e.contains("this pickle would run posix.system") && e.contains("refused"), "{e}");
        // The byte is that of the opcode.
        let at: usize = e.split("at byte ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
        assert_eq!(fs::read(fixture("pickles").join(file)).unwrap()[at..at + 13], *b"cposix\nsystem");
    }
    let run = |body: &[u8]| refused(&one_storage(body.to_vec()));
    assert!(run(b"cbuiltins\neval\n").contains("would run builtins.eval"));
    assert!(run(b"c__builtin__\neval\n").contains("would run __builtin__.eval"));
    assert!(run(b"ctorch\nload\n").contains("would run torch.load"));
    assert!(run(b"ctorch._utils\n_rebuild_sparse_tensor\n").contains("_rebuild_sparse_tensor"));
    assert!(run(b"ctorch\n\n").contains("would run torch."));
    assert!(run(b"\x8c\x02os\x8c\x06system\x93").contains("would run os.system"));
    assert!(run(b"(ios\nsystem\n").contains("would run os.system (opcode INST)"));
    for (op, name) in [
        (b"\x81".as_slice(), "NEWOBJ (0x81)"),
        (b"\x92", "NEWOBJ_EX (0x92)"),
        (b"o", "OBJ (0x6f)"),
        (b"\x82", "EXT1 (0x82)"),
        (b"P0\n", "PERSID (0x50)"),
        (b"\x97", "NEXT_BUFFER (0x97)"),
        (b"C\x01x", "SHORT_BINBYTES (0x43)"),
        (b"\xff", "unknown (0xff)"),
    ] {
        assert!(run(op).contains(&format!("opcode {name}")), "{}", run(op));
    }
}

#[test]
fn lying_pickles_are_refused() {
    let bad = |body: Vec<u8>, why: &str| {
        let e = refused(&one_storage(body));
        assert!(e.contains(why), "{e} does not say {why}");
    };
    let good = || storage("0", "FloatStorage", 6);
    assert_eq!(parsed(&one_storage(tensor(good(), 0, &[2, 3], &[3, 1]))).unwrap().len(), 1);
    for shape in [[0, 1 << 40, 1 << 40], [6, 0, 1]] {
        let empty = parsed(&one_storage(tensor(good(), 0, &shape, &[i64::MAX, 5, 0]))).unwrap();
        assert!(empty[0].1.range.is_empty() && empty[0].1.bytes() == 0);
    }
    let outside = "does not lie in its storage 0 of 24 bytes";
    bad(tensor(good(), 0, &[2, 4], &[4, 1]), outside);
    bad(tensor(good(), 1, &[2, 3], &[3, 1]), outside);
    bad(tensor(good(), 0, &[2, 3], &[3, 2]), outside);
    bad(tensor(good(), i64::MAX, &[1], &[1]), outside);
    bad(tensor(good(), 0, &[i64::MAX, i64::MAX], &[1, 1]), outside);
    bad(tensor(good(), 0, &[2, 2], &[i64::MAX, i64::MAX]), outside);
    bad(tensor(good(), 7, &[0], &[1]), outside);
    bad(tensor(good(), 0, &[1 << 40], &[0]), "repeats elements of its storage");
    bad(tensor(good(), 0, &[7], &[0]), "repeats elements of its storage");
    bad(tensor(good(), -1, &[1], &[1]), "an offset of -1");
    bad(tensor(good(), 0, &[-2, 3], &[3, 1]), "a size of -2");
    bad(tensor(good(), 0, &[2, 3], &[3, -1]), "a stride of -1");
    bad(tensor(good(), 0, &[2, 3], &[1]), "2 sizes, but 1 strides");
    bad(tensor(good(), 0, &[1; 9], &[1; 9]), "9 dimensions");
    bad(tensor(int(3), 0, &[1], &[1]), "a storage is needed, not a whole number");
    bad(tensor(storage("0", "FloatStorage", -6), 0, &[1], &[1]), "a storage of -6 elements");
    bad(
        tensor(storage("0", "FloatStorage", 5), 0, &[1], &[1]),
        "storage 0: 6 elements here, 5 in the description",
    );
    bad(tensor(storage("1", "FloatStorage", 6), 0, &[1], &[1]), "storage 0: no tensor uses it");
    bad(
        tensor(storage("0", "DoubleStorage", 6), 0, &[1], &[1]),
        "storage 0: 6 elements, but 24 bytes are left",
    );
    let bad_alone = |body: Vec<u8>, why: &str| {
        let e = refused(&old_file(&dict(&[("w", body)]), &[]));
        assert!(e.contains(why), "{e} does not say {why}");
    };
    bad_alone(int(3), "tensor w: it is a whole number, not a tensor");
    bad_alone(b"}".to_vec(), "tensor w: it is a dictionary, so this is a whole training state");
    bad([good(), good()].concat(), "a key without a value");
    let twice =
        tuple(&[tensor(good(), 0, &[1], &[1]), tensor(storage("0", "HalfStorage", 6), 0, &[1], &[1])]);
    bad(twice, "storage 0 is described in two ways");
    let view =
        [text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), int(6), ints(&[0, 0, 6])];
    bad([tuple(&view), b"Q".to_vec()].concat(), "a view of another");
    bad(b"(Q".to_vec(), "the stack is empty");
    bad(b"h\x09".to_vec(), "nothing was remembered as 9");
    bad(b"(".repeat(100), "nested more than 64 deep");
    bad([name("torch", "FloatStorage"), b")R".to_vec()].concat(), "no file of tensors calls it");
    bad([int(1), b")R".to_vec()].concat(), "a name that can be called is needed, not a whole number");
    bad(b"]}b".to_vec(), "a dictionary that gets attributes is needed, not a list");
    bad(b"\x8a\x20".iter().copied().chain([1; 32]).collect(), "a whole number of 32 bytes");
    bad(b"X\x01\0\0\0\xff".to_vec(), "a text is no UTF-8");
    bad(b"X\xff\xff\xff\xff".to_vec(), "ends inside an instruction");
    bad(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "ends inside an instruction");
    bad(b"ctorch".to_vec(), "a name without an end");
}

/// A list that holds itself, remembered and recalled, and a nest of tuples: neither loops nor overflows.
#[test]
fn values_may_contain_themselves_and_nest_deeply() {
    let alone = |body: Vec<u8>| refused(&old_file(&dict(&[("w", body)]), &[]));
    let itself = [b"]q\x00h\x00a".to_vec(), b"\x85".repeat(200_000)].concat();
    let e = alone(itself);
    assert!(e.contains("tensor w: it is a tuple"), "{e}");
    let e = alone(b"}q\x00Xk\0\0\0".iter().copied().chain([b'0'; 107]).chain(*b"h\x00s").collect());
    assert!(e.contains("tensor w: it is a dictionary"), "{e}");
    let e = alone(b"N".repeat(200_000));
    assert!(e.contains("more than 131072 values on the stack"), "{e}");
}

#[test]
fn the_frame_of_the_old_layout_is_checked() {
    let body = dict(&[("w", tensor(storage("0", "FloatStorage", 2), 0, &[2], &[1]))]);
    let values = [("0", 2, vec![1.0, 2.0])];
    let good = old_file(&body, &values);
    assert_eq!(parsed(&good).unwrap()[0].1.range, good.len() - 8..good.len());
    for end in 0..good.len() {
        assert!(parsed(&good[..end]).is_err(), "{end} of {} bytes", good.len());
    }
    assert!(refused(&good[..good.len() - 1]).contains("storage 0: 2 elements, but 7 bytes are left"));
    assert!(refused(b"").contains("no file of torch.save"));
    assert!(refused(b"\x80\x02\x8a\x0a0123456789.").contains("the magic number of torch.save is wrong"));
    assert!(
        refused(&old_file_of(b"\x80\x02K\x07.", true, &body, &values)).contains("version 7 of the layout")
    );
    let big = refused(&old_file_of(b"\x80\x02M\xe9\x03.", false, &body, &values));
    assert!(big.contains("not little-endian"), "{big}");
    let twice = [("0", 2, vec![1.0, 2.0]), ("0", 2, vec![1.0, 2.0])];
    assert!(refused(&old_file(&body, &twice)).contains("storage 0: it is there twice"));
    assert!(refused(&old_file(&body, &[])).contains("tensor w: its storage 0 is missing"));
    let list = [b"\x80\x02]".to_vec(), b".".to_vec()].concat();
    assert!(refused(&old_file(&list, &[])).contains("it holds a list, not a dictionary of tensors"));
    // Python 2 spells an OrderedDict out, and its texts are bytes.
    let pair =
        [b"(U\x01w".to_vec(), tensor(storage("0", "FloatStorage", 2), 0, &[2], &[1]), b"t".to_vec()].concat();
    let items = [b"]".to_vec(), pair, b"a".to_vec()].concat();
    let body =
        [b"\x80\x02".to_vec(), name("collections", "OrderedDict"), tuple(&[items]), b"R.".to_vec()].concat();
    assert_eq!(parsed(&old_file(&body, &values)).unwrap()[0].0, "w");
}

#[test]
fn the_archive_of_the_new_layout_is_checked() {
    let body = dict(&[("w", tensor(storage("0", "FloatStorage", 2), 0, &[2], &[1]))]);
    let make = |order: &[u8], data: &[u8]| {
        archive(&[("m/data.pkl", &body), ("m/byteorder", order), ("m/data/0", data)], 0)
    };
    let good = make(b"little", &[0; 8]);
    let tensors = parsed(&good).unwrap();
    assert_eq!((tensors[0].0.as_str(), tensors[0].1.range.len()), ("w", 8));
    for end in 0..good.len() {
        assert!(parsed(&good[..end]).is_err(), "{end} of {} bytes", good.len());
    }
    assert!(refused(&make(b"big", &[0; 8])).contains("not little-endian"));
    assert!(
        refused(&make(b"little", &[0; 7])).contains("tensor w: its storage 0 should have 8 bytes, but has 7")
    );
    let files = [("m/data.pkl", body.as_slice()), ("m/data/0", &[0; 8])];
    assert!(refused(&archive(&files, 8)).contains("entry m/data.pkl is compressed"));
    assert!(refused(&archive(&files[..1], 0)).contains("tensor w: its storage 0 is missing"));
    assert!(refused(&archive(&files[1..], 0)).contains("the archive has no data.pkl"));
    let twice = [files[0], files[0], files[1]];
    assert!(refused(&archive(&twice, 0)).contains("entry m/data.pkl is there twice"));
    let program = [files[0], files[1], ("m/constants.pkl", b"".as_slice())];
    assert!(refused(&archive(&program, 0)).contains("a program of TorchScript"));
    assert!(refused(&fs::read(fixture("pickles/training.bin")).unwrap()).contains("whole training state"));
    assert!(refused(&fs::read(fixture("pickles/expanded.bin")).unwrap()).contains("repeats elements"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1\n").contains("git-lfs"));
}

#[test]
fn no_cut_or_flipped_bit_panics() {
    for file in ["odd.bin", "odd-old.bin", "odd-protocol4.bin"] {
        let whole = fs::read(fixture("pickles").join(file)).unwrap();
        let temp = Temp::new();
        let try_all = |bytes: &[u8]| {
            let mapped = Mapped::open(&temp.write("b", bytes)).unwrap();
            for (name, e) in parse(&mapped).unwrap_or_default() {
                let bytes = &mapped.bytes()[e.range.clone()];
                let n = e.strided.as_ref().map_or(bytes, |s| s.ordered(&e.shape, bytes)).len();
                assert_eq!(n, e.bytes(), "{name}");
            }
        };
        for end in (0..whole.len()).step_by(37) {
            try_all(&whole[..end]);
        }
        for at in (0..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            try_all(&bytes);
            bytes[at] = 0xff;
            try_all(&bytes);
        }
    }
}

#[test]
fn safetensors_come_first_and_shards_are_checked() {
    let temp = llama_folder(json!({}), |_| {});
    temp.write("pytorch_model.bin", b"nothing that can be read");
    assert_eq!(Checkpoint::open(temp.path()).unwrap().format().name(), "safetensors");
    fs::remove_file(temp.path().join("model.safetensors")).unwrap();
    let numel = |shape: &[usize]| shape.iter().product::<usize>() as i64;
    let file = |tensors: &[(&str, &[usize])]| {
        let (mut items, mut storages) = (Vec::new(), Vec::new());
        let keys: Vec<_> = (0..tensors.len()).map(|i| i.to_string()).collect();
        let names: Vec<_> = tensors.iter().map(|(n, _)| format!("model.{n}")).collect();
        for ((key, name), (_, shape)) in keys.iter().zip(&names).zip(tensors) {
            let n = numel(shape);
            let sizes: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
            let strides: Vec<i64> = (1..=shape.len()).map(|i| numel(&shape[i..])).collect();
            items.push((name.as_str(), tensor(storage(key, "FloatStorage", n), 0, &sizes, &strides)));
            storages.push((key.as_str(), n, vec![0.5; n as usize]));
        }
        old_file(&dict(&items), &storages)
    };
    temp.write("pytorch_model.bin", file(&LLAMA));
    let c = Checkpoint::open(temp.path()).unwrap();
    assert_eq!((c.format().name(), c.tensors().count()), ("pytorch", 11));
    assert_eq!(c.tensor("model.norm.weight").unwrap().bytes.len(), 16);
    fs::remove_file(temp.path().join("pytorch_model.bin")).unwrap();
    temp.write("a.bin", file(&LLAMA[..5]));
    temp.write("b.bin", file(&LLAMA[5..]));
    let map: serde_json::Map<_, _> = LLAMA
        .iter()
        .enumerate()
        .map(|(i, (n, _))| (format!("model.{n}"), if i < 5 { "a.bin" } else { "b.bin" }.into()))
        .collect();
    temp.write("pytorch_model.bin.index.json", json!({"weight_map": map}).to_string());
    assert_eq!(Checkpoint::open(temp.path()).unwrap().tensors().count(), 11);
    fs::remove_file(temp.path().join("b.bin")).unwrap();
    let e = Checkpoint::open(temp.path()).unwrap_err().to_string();
    assert!(e.contains("names shard b.bin for tensor"), "{e}");
    temp.write("b.bin", file(&LLAMA[6..]));
    let e = Checkpoint::open(temp.path()).unwrap_err().to_string();
    assert!(e.contains("pytorch_model.bin.index.json says that it is here, but it is not"), "{e}");
    temp.write("config.json", llama_config(json!({"vocab_size": 6})).to_string());
    temp.write("b.bin", file(&LLAMA[5..]));
    let e = Checkpoint::open(temp.path()).unwrap_err().to_string();
    assert!(e.contains("embed_tokens.weight has shape [5, 4], the configuration asks for [6, 4]"), "{e}");
}
