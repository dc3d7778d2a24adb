//! One result, to the bit: on every instruction set, with any number of threads, alone or in a batch,
//! in pieces with a cache, fused or not. `docs/determinism.md` states the contract.

use std::sync::Arc;

use refocus_compute::{
    Activation, AttnProbe, AttnSpec, Batch, Cpu, CpuBuf, CpuPage, Dropout, Dtype, Isa, Kernels, KvSeq, KvUse,
    MatrixSource, NormArgs, NormKind, Panels, Purpose, Qkv, Result, RowSet, Seg, Vocab, VocabOut,
};

use crate::support::{Rng, heads, rope_table, stored};

/// Rows that meet every tile height of every instruction set, and both sides of every threshold.
const ROWS: usize = 103;
/// The types of [`forward_kernels`]; [`quantised_kernels`] has the rest.
const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_1];
const ACTS: [Activation; 4] = [Activation::Relu, Activation::Gelu, Activation::GeluTanh, Activation::Silu];

fn isas() -> impl Iterator<Item = Isa> {
    [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|i| i.available())
}

/// Activations with what is awkward among them: zeros of both signs, subnormals, large values.
fn values(rng: &mut Rng, n: usize) -> Vec<f32> {
    let awkward = [0.0, -0.0, 1e-40, -3e-39, 2e4, -1.5e4, f32::MIN_POSITIVE, 87.0];
    (0..n)
        .map(|i| if rng.below(29) == 0 { awkward[i % awkward.len()] } else { 4.0 * rng.unit() as f32 })
        .collect()
}

fn weight(cpu: &mut Cpu, rng: &mut Rng, dtype: Dtype, n: usize, k: usize) -> Result<Panels> {
    let bytes = stored(rng, dtype, n, k);
    cpu.pack(&MatrixSource { name: "w", dtype, bytes: &bytes, stored: [n, k], transposed: false, rows: None })
}

fn bits(x: &CpuBuf, cpu: &mut Cpu) -> Vec<u32> {
    cpu.download(x).expect("host").into_iter().map(f32::to_bits).collect()
}

fn random(cpu: &mut Cpu, rng: &mut Rng, rows: usize, width: usize) -> Result<CpuBuf> {
    let data = values(rng, rows * width);
    cpu.upload(rows, width, &data)
}

type Named = Vec<(String, Vec<u32>)>;

/// Products with a random matrix `[n, k]` of a type, and its rows.
fn products(
    cpu: &mut Cpu,
    rng: &mut Rng,
    (dtype, n, k): (Dtype, usize, usize),
    out: &mut Named,
) -> Result<()> {
    let w = weight(cpu, rng, dtype, n, k)?;
    let bias = random(cpu, rng, 1, n)?;
    for rows in [1, 2, 3, 13, ROWS] {
        let (x, residual) = (random(cpu, rng, rows, k)?, random(cpu, rng, rows, n)?);
        let act = Some(ACTS[rows % 4]);
        let y = cpu.linear(&x, &[(&w, Some(&bias))], act, Some(&residual))?;
        out.push((format!("linear {dtype:?} {rows}×{k}×{n}"), bits(&y, cpu)));
    }
    let ids: Vec<u32> = (0..n as u32).rev().collect();
    let rows = cpu.embed(&w, &ids)?;
    out.push((format!("embed {dtype:?}"), bits(&rows, cpu)));
    Ok(())
}

/// As [`forward_kernels`] for the types that are not among its own.
fn quantised_kernels(cpu: &mut Cpu) -> Result<Named> {
    let rng = &mut Rng::new(17);
    let mut out = Named::new();
    for dtype in Dtype::ALL.into_iter().filter(|d| !DTYPES.contains(d)) {
        let widths = if dtype.block() == 256 { [512, 768] } else { [288, 544] };
        for (n, k) in [37, 96].into_iter().zip(widths) {
            products(cpu, rng, (dtype, n, k), &mut out)?;
        }
    }
    Ok(out)
}

/// Every kernel of the forward pass on numbers that depend on nothing but the code.
fn forward_kernels(cpu: &mut Cpu) -> Result<Named> {
    let rng = &mut Rng::new(11);
    let mut out = Named::new();
    for dtype in DTYPES {
        for (n, k) in [(37, 288), (96, 544)] {
            products(cpu, rng, (dtype, n, k), &mut out)?;
        }
    }
    let mut note = |name: String, x: CpuBuf, cpu: &mut Cpu| out.push((name, bits(&x, cpu)));
    let x = random(cpu, rng, ROWS, 38)?;
    for a in ACTS {
        let y = cpu.act(&x, a)?;
        note(format!("{a:?}"), y, cpu);
        let y = cpu.glu(&x, a)?;
        note(format!("{a:?}, gated"), y, cpu);
    }
    for kind in [NormKind::Layer, NormKind::Rms] {
        let (gain, bias) = (random(cpu, rng, 1, 19)?, random(cpu, rng, 1, 19)?);
        let n = NormArgs { kind, eps: 1e-5, group: 19, gain: Some(&gain), bias: Some(&bias) };
        let (y, s) = (cpu.norm(&x, &n)?, cpu.norm_scale(&x, &n)?);
        note(format!("{kind:?} norm"), y, cpu);
        note(format!("{kind:?} scale"), s, cpu);
    }
    let pos: Vec<u32> = (0..ROWS as u32).collect();
    let y = cpu.rope(&x, 19, &rope_table(ROWS, 18, false), &pos, false)?;
    note("rope".into(), y, cpu);

    for spec in specs() {
        let (batch, q, k, v) = attention_input(cpu, rng, &spec)?;
        let groups = Some(vec![vec![vec![0..1], vec![3..70, 90..999]]; batch.segs.len()]);
        let probe = AttnProbe { groups, stats: true, raw: true, ..Default::default() };
        let qkv = Qkv { q: &q, k: &k, v: &v, bias: None };
        let a = cpu.attention(qkv, &spec, 0, &batch, None, KvUse::None, Some(&probe))?;
        note(format!("{spec:?}"), a.z, cpu);
        for part in [a.mass, a.stats].into_iter().flatten() {
            note(format!("{spec:?}, measured"), part, cpu);
        }
        let raw = a.raw.expect("asked for");
        let raw = cpu.upload(2, raw.scores.len(), &[raw.scores, raw.pattern].concat())?;
        note(format!("{spec:?}, pattern"), raw, cpu);
    }

    let (u, x) = (weight(cpu, rng, Dtype::Q8_0, 2100, 64)?, random(cpu, rng, ROWS, 64)?);
    let want = [Vocab::All, Vocab::LogSumExp, Vocab::Nll((0..ROWS as u32).map(|i| i * 20).collect())];
    for (question, answer) in want.iter().zip(cpu.vocab(&x, &u, None, &want)?) {
        let VocabOut::Values(y) = answer else { panic!("{question:?}") };
        note(format!("{question:?}"), y, cpu);
    }
    Ok(out)
}

/// The recurrence of an LSTM layer, forward and back.
fn lstm_kernels(cpu: &mut Cpu) -> Result<Named> {
    let rng = &mut Rng::new(17);
    let mut out = Named::new();
    for hidden in [5, 32, 130] {
        let (w, batch) =
            (weight(cpu, rng, Dtype::F32, 4 * hidden, hidden)?, Batch::from_lengths([9, 1, 40, 3, 0, 9]));
        let (pre, bias) = (random(cpu, rng, batch.rows(), 4 * hidden)?, random(cpu, rng, 1, 4 * hidden)?);
        let (y, kept) = cpu.lstm(&pre, None, &w, Some(&bias), &batch, true)?;
        let kept = kept.expect("asked for");
        let d = cpu.lstm_vjp(&y, &kept, &w, &batch, &y)?;
        for (name, x) in [
            ("states", y),
            ("gates", kept.gates),
            ("cells", kept.cells),
            ("gradient", d.dpre),
            ("before", d.before),
        ] {
            out.push((format!("{name} of {hidden}"), bits(&x, cpu)));
        }
    }
    Ok(out)
}

/// Head widths that fill no vector, grouped heads, windows shorter and longer than a block of keys.
fn specs() -> [AttnSpec; 4] {
    [
        heads(2, 2, 7),
        heads(6, 2, 64),
        AttnSpec { window: Some(5), ..heads(3, 3, 17) },
        AttnSpec { window: Some(70), scale: 0.1, ..heads(4, 1, 40) },
    ]
}

fn attention_input(cpu: &mut Cpu, rng: &mut Rng, spec: &AttnSpec) -> Result<(Batch, CpuBuf, CpuBuf, CpuBuf)> {
    let batch = Batch::from_lengths([1, 150, 2, 64]);
    let n = batch.rows();
    let kv = spec.n_kv_heads * spec.d_head;
    let mut some = |width| -> Result<CpuBuf> {
        let data = rng.f32s(n * width);
        cpu.upload(n, width, &data)
    };
    let (q, k, v) = (some(spec.n_heads * spec.d_head)?, some(kv)?, some(kv)?);
    Ok((batch, q, k, v))
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_same_bits() {
    for kernels in [forward_kernels, quantised_kernels, lstm_kernels] {
        let want = kernels(&mut Cpu::new(Isa::Portable, 1)).unwrap();
        for isa in isas() {
            for threads in [1, 2, 3, 7] {
                let got = kernels(&mut Cpu::new(isa, threads)).unwrap();
                assert_eq!(got.len(), want.len());
                for ((name, got), (_, want)) in got.iter().zip(&want) {
                    assert!(got == want, "{name} with {threads} threads on {isa:?}");
                }
            }
        }
    }
}

#[test]
fn a_sequence_of_an_lstm_is_the_same_alone_and_among_others() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 2);
        let rng = &mut Rng::new(18);
        let hidden = 37;
        let w = weight(cpu, rng, Dtype::F32, 4 * hidden, hidden).unwrap();
        let batch = Batch::from_lengths((0..60).map(|i| (7 * i) % 23));
        let pre = random(cpu, rng, batch.rows(), 4 * hidden).unwrap();
        let (all, kept) = cpu.lstm(&pre, None, &w, None, &batch, true).unwrap();
        let d = cpu.lstm_vjp(&all, &kept.unwrap(), &w, &batch, &all).unwrap().dpre;
        let (want, dwant) = (bits(&all, cpu), bits(&d, cpu));
        for seg in batch.segs.iter().rev().filter(|s| !s.rows.is_empty()) {
            let rows: Vec<u32> = seg.rows.clone().collect();
            let (own, alone) = (cpu.rows(&pre, &rows).unwrap(), Batch::from_lengths([rows.len()]));
            let (y, kept) = cpu.lstm(&own, None, &w, None, &alone, true).unwrap();
            let d = cpu.lstm_vjp(&y, &kept.unwrap(), &w, &alone, &y).unwrap().dpre;
            let at = |width: usize| seg.rows.start as usize * width..seg.rows.end as usize * width;
            assert!(bits(&y, cpu) == want[at(hidden)], "{isa:?}, {:?}", seg.rows);
            assert!(bits(&d, cpu) == dwant[at(4 * hidden)], "{isa:?}, {:?}, gradient", seg.rows);
        }
    }
}

#[test]
fn gate_inputs_of_an_lstm_are_the_same_looked_up_and_copied_out() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 2);
        let rng = &mut Rng::new(19);
        let hidden = 37;
        let w = weight(cpu, rng, Dtype::F32, 4 * hidden, hidden).unwrap();
        let batch = Batch::from_lengths([9, 0, 1, 30]);
        let at: Vec<u32> = (0..batch.rows() as u32).map(|i| i * i % 5).collect();
        let table = random(cpu, rng, 5, 4 * hidden).unwrap();
        let copied = cpu.rows(&table, &at).unwrap();
        let mut states = |pre: &CpuBuf, at: Option<&[u32]>| {
            let (y, kept) = cpu.lstm(pre, at, &w, None, &batch, true).unwrap();
            let kept = kept.unwrap();
            [bits(&y, cpu), bits(&kept.gates, cpu), bits(&kept.cells, cpu)]
        };
        assert!(states(&table, Some(&at)) == states(&copied, None), "{isa:?}");
    }
}

/// FNV-1a over every bit that [`forward_kernels`] gives, rotary positions aside (their angles are the
/// system's), and over those of [`quantised_kernels`] and [`lstm_kernels`]. Another number means other
/// results than every version before: the rules of `docs/determinism.md` have changed, and the change log
/// must say so.
const WRITTEN_DOWN: [u64; 3] = [0xc93c_51d9_ab71_a10d, 0x5a8d_d66d_9444_bc3e, 0xc834_da41_c5f3_bfb3];

#[test]
fn the_bits_are_those_of_other_machines() {
    for (kernels, written) in [forward_kernels, quantised_kernels, lstm_kernels].into_iter().zip(WRITTEN_DOWN)
    {
        let all = kernels(&mut Cpu::new(Isa::detect(), 2)).unwrap();
        let words = all.iter().filter(|(name, _)| name != "rope").flat_map(|(_, bits)| bits);
        let hash = words
            .flat_map(|w| w.to_le_bytes())
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        assert!(hash == written, "the bits are {hash:#x} here, {written:#x} was written down");
    }
}

#[test]
fn a_row_of_a_product_is_the_same_alone_and_among_others() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 2);
        let rng = &mut Rng::new(12);
        for dtype in Dtype::ALL {
            let (n, k) = (37, if dtype.block() == 256 { 512 } else { 544 });
            let w = weight(cpu, rng, dtype, n, k).unwrap();
            let x = random(cpu, rng, ROWS, k).unwrap();
            let all = cpu.linear(&x, &[(&w, None)], None, None).unwrap();
            let all = bits(&all, cpu);
            for few in [1, 2, 3, 5, 11, 16, 19, 24, 30] {
                for r in [0, 50, ROWS - few] {
                    let rows: Vec<u32> = (r as u32..(r + few) as u32).collect();
                    let part = cpu.rows(&x, &rows).unwrap();
                    let part = cpu.linear(&part, &[(&w, None)], None, None).unwrap();
                    assert!(bits(&part, cpu) == all[r * n..(r + few) * n], "{isa:?} {dtype:?}, {few} at {r}");
                }
            }
        }
    }
}

#[test]
fn fused_is_unfused() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 2);
        let rng = &mut Rng::new(13);
        let (u, w) =
            (weight(cpu, rng, Dtype::F32, 37, 288).unwrap(), weight(cpu, rng, Dtype::Bf16, 37, 288).unwrap());
        for rows in [1, 2, ROWS] {
            let x = random(cpu, rng, rows, 288).unwrap();
            let (bias, residual) = (random(cpu, rng, 1, 37).unwrap(), random(cpu, rng, rows, 37).unwrap());
            for act in ACTS {
                let fused = cpu.linear(&x, &[(&u, Some(&bias))], Some(act), Some(&residual)).unwrap();
                let y = cpu.linear(&x, &[(&u, Some(&bias))], None, None).unwrap();
                let y = cpu.act(&y, act).unwrap();
                let y = cpu.add(&residual, &y).unwrap();
                assert!(bits(&fused, cpu) == bits(&y, cpu), "{isa:?} {act:?}, {rows} rows");
                // Gate and up projection side by side, then their gated product.
                let both = cpu.linear(&x, &[(&u, None), (&w, None)], None, None).unwrap();
                let each = cpu.linear_each(&x, &[(&u, None), (&w, None)]).unwrap();
                for (i, own) in each.iter().enumerate() {
                    let cols = cpu.cols(&both, i * 37..(i + 1) * 37).unwrap();
                    assert!(bits(&cols, cpu) == bits(own, cpu));
                }
            }
        }
    }
}

/// Queries, keys and values of some rows.
fn part(cpu: &mut Cpu, all: [&CpuBuf; 3], rows: std::ops::Range<u32>) -> [CpuBuf; 3] {
    let rows: Vec<u32> = rows.collect();
    all.map(|x| cpu.rows(x, &rows).unwrap())
}

#[test]
fn a_sequence_attends_the_same_alone_batched_cached_and_measured() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 3);
        let rng = &mut Rng::new(14);
        for spec in specs() {
            let (batch, q, k, v) = attention_input(cpu, rng, &spec).unwrap();
            let width = spec.n_heads * spec.d_head;
            let bias = random(cpu, rng, 150, spec.n_heads).unwrap();
            let bias = spec.window.is_none().then_some(&bias);
            let run =
                |cpu: &mut Cpu, [q, k, v]: [&CpuBuf; 3], batch: &Batch, kv: KvUse<'_, CpuPage>, probe| {
                    let qkv = Qkv { q, k, v, bias };
                    let z = cpu.attention(qkv, &spec, 0, batch, None, kv, probe).unwrap().z;
                    bits(&z, cpu)
                };
            let want = run(cpu, [&q, &k, &v], &batch, KvUse::None, None);
            let groups = Some(vec![vec![vec![0..9]]; batch.segs.len()]);
            let probe = AttnProbe { groups, stats: true, raw: true, ..Default::default() };
            let measured = run(cpu, [&q, &k, &v], &batch, KvUse::None, Some(&probe));
            assert!(measured == want, "{isa:?} {spec:?}, measured");

            let some = RowSet::new(vec![0, 3, 64, 65, 150, 151, 200]);
            let few = cpu.rows(&q, some.as_slice()).unwrap();
            let qkv = Qkv { q: &few, k: &k, v: &v, bias };
            let z = cpu.attention(qkv, &spec, 0, &batch, Some(&some), KvUse::None, None).unwrap().z;
            for (got, &r) in bits(&z, cpu).chunks_exact(width).zip(some.as_slice()) {
                assert!(got == &want[r as usize * width..][..width], "{isa:?} {spec:?}, row {r} of some");
            }

            for seg in &batch.segs {
                let want = &want[seg.rows.start as usize * width..seg.rows.end as usize * width];
                let n = seg.rows.end - seg.rows.start;
                let [q, k, v] = part(cpu, [&q, &k, &v], seg.rows.clone());
                let alone = run(cpu, [&q, &k, &v], &Batch::from_lengths([n as usize]), KvUse::None, None);
                assert!(alone == want, "{isa:?} {spec:?}, alone");
                for step in [1, 3, 63, 64, 65] {
                    let mut cache = [KvSeq::new(1)];
                    let mut pieces = Vec::new();
                    for start in (0..n).step_by(step) {
                        let end = n.min(start + step as u32);
                        let own = part(cpu, [&q, &k, &v], start..end);
                        let here = Batch { segs: vec![Seg { rows: 0..end - start, pos0: start }] };
                        let kv = KvUse::Append(&mut cache);
                        pieces.extend(run(cpu, own.each_ref(), &here, kv, None));
                        cache[0].len = end as usize;
                    }
                    assert!(pieces == want, "{isa:?} {spec:?}, {step} at a time");
                }
                // Two continuations of one prefix, in one batch.
                let cut = n / 2;
                let mut cache = [KvSeq::new(1)];
                let first = part(cpu, [&q, &k, &v], 0..cut);
                let here = Batch::from_lengths([cut as usize]);
                run(cpu, first.each_ref(), &here, KvUse::Append(&mut cache), None);
                cache[0].len = cut as usize;
                let rows: Vec<u32> = (cut..n).chain(cut..n).collect();
                let twice = [&q, &k, &v].map(|x| cpu.rows(x, &rows).unwrap());
                let (a, b) = (0..n - cut, n - cut..2 * (n - cut));
                let here = Batch { segs: vec![Seg { rows: a, pos0: cut }, Seg { rows: b, pos0: cut }] };
                let shared = [cache[0].clone(), cache[0].clone()];
                let both = run(cpu, twice.each_ref(), &here, KvUse::Read(&shared), None);
                let tail = &want[cut as usize * width..];
                assert!(both == [tail, tail].concat(), "{isa:?} {spec:?}, shared prefix");
            }
        }
    }
}

/// Rows of many segments that go on from pages of one cache, as variants of a prompt do, meet these together.
#[test]
fn rows_that_continue_one_cache_are_what_they_are_alone() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 3);
        let rng = &mut Rng::new(15);
        for spec in specs() {
            let width = spec.n_heads * spec.d_head;
            let (_, q, k, v) = attention_input(cpu, rng, &spec).unwrap();
            let [q, k, v] = part(cpu, [&q, &k, &v], 1..151);
            let bias = random(cpu, rng, 150, spec.n_heads).unwrap();
            let bias = spec.window.is_none().then_some(&bias);
            let groups = |segs: usize| Some(vec![vec![vec![0..9, 120..122], vec![130..131]]; segs]);
            let mut cache = [KvSeq::new(1)];
            let whole = Batch::from_lengths([150]);
            let probe = AttnProbe { groups: groups(1), stats: true, raw: true, ..Default::default() };
            let qkv = Qkv { q: &q, k: &k, v: &v, bias };
            let kv = KvUse::Append(&mut cache);
            let want = cpu.attention(qkv, &spec, 0, &whole, None, kv, Some(&probe)).unwrap();
            // Twice the same place, blocks that are full and not, more rows than one, nothing in common.
            let starts: Vec<(u32, u32)> = [(149, 1); 9]
                .into_iter()
                .chain([
                    (148, 2),
                    (146, 1),
                    (130, 1),
                    (129, 2),
                    (128, 1),
                    (127, 3),
                    (127, 1),
                    (70, 1),
                    (64, 2),
                ])
                .chain([(63, 1), (1, 2), (0, 1), (100, 40), (149, 1), (149, 1), (140, 1)])
                .collect();
            let mut segs = Vec::new();
            let mut at: Vec<u32> = Vec::new();
            for &(pos0, n) in &starts {
                let row = at.len() as u32;
                segs.push(Seg { rows: row..row + n, pos0 });
                at.extend(pos0..pos0 + n);
            }
            let batch = Batch { segs };
            let caches: Vec<_> =
                starts.iter().map(|(pos0, _)| KvSeq { len: *pos0 as usize, ..cache[0].clone() }).collect();
            let [q, k, v] = [&q, &k, &v].map(|x| cpu.rows(x, &at).unwrap());
            let qkv = || Qkv { q: &q, k: &k, v: &v, bias };
            let kv = || KvUse::Read(&caches);
            let plain = cpu.attention(qkv(), &spec, 0, &batch, None, kv(), None).unwrap().z;
            let probe =
                AttnProbe { groups: groups(starts.len()), stats: true, raw: true, ..Default::default() };
            let got = cpu.attention(qkv(), &spec, 0, &batch, None, kv(), Some(&probe)).unwrap();
            assert!(bits(&got.z, cpu) == bits(&plain, cpu), "{isa:?} {spec:?}, measured");
            let rows = |x: &CpuBuf, cpu: &mut Cpu| bits(&cpu.rows(x, &at).unwrap(), cpu);
            assert!(bits(&plain, cpu) == rows(&want.z, cpu), "{isa:?} {spec:?}, output");
            let (mass, stats) = (want.mass.unwrap(), want.stats.unwrap());
            assert!(bits(&got.mass.unwrap(), cpu) == rows(&mass, cpu), "{isa:?} {spec:?}, mass");
            assert!(bits(&got.stats.unwrap(), cpu) == rows(&stats, cpu), "{isa:?} {spec:?}, statistics");
            let (got, want) = (got.raw.unwrap(), want.raw.unwrap());
            for (i, &row) in at.iter().enumerate() {
                let n = (row as usize + 1) * spec.n_heads;
                let (a, b) = (got.offset[i], want.offset[row as usize]);
                assert_eq!(got.scores[a..a + n], want.scores[b..b + n], "{isa:?} {spec:?}, row {i}");
                assert_eq!(got.pattern[a..a + n], want.pattern[b..b + n], "{isa:?} {spec:?}, row {i}");
            }
            assert_eq!(plain.as_slice().len(), at.len() * width);
        }
    }
}

#[test]
fn questions_about_the_vocabulary_have_the_bits_of_all_logits() {
    for isa in isas() {
        let cpu = &mut Cpu::new(isa, 3);
        let rng = &mut Rng::new(15);
        for dtype in DTYPES {
            let (n, k, rows) = (1500, 288, 70);
            let u = weight(cpu, rng, dtype, n, k).unwrap();
            let x = random(cpu, rng, rows, k).unwrap();
            let bias = random(cpu, rng, 1, n).unwrap();
            let ids: Arc<[u32]> = rng.ids(rows, n).into();
            let want = [Vocab::All, Vocab::Ids(Arc::clone(&ids)), Vocab::LogSumExp, Vocab::Top(3)];
            let answers = cpu.vocab(&x, &u, Some(&bias), &want).unwrap();
            let [VocabOut::Values(all), VocabOut::Values(some), VocabOut::Values(lse), VocabOut::Top(top)] =
                &answers[..]
            else {
                panic!("other answers")
            };
            let linear = cpu.linear(&x, &[(&u, Some(&bias))], None, None).unwrap();
            let (all, some, lse) = (bits(all, cpu), bits(some, cpu), bits(lse, cpu));
            assert!(bits(&linear, cpu) == all, "{isa:?} {dtype:?}, all");
            for r in 0..rows {
                let row = &all[r * n..(r + 1) * n];
                let chosen: Vec<u32> = ids.iter().map(|&i| row[i as usize]).collect();
                assert!(chosen == some[r * rows..(r + 1) * rows], "{isa:?} {dtype:?}, ids");
                assert!(top[r].iter().all(|t| t.1.to_bits() == row[t.0 as usize]), "{isa:?} {dtype:?}, top");
            }
            for r in [0, 33, rows - 1] {
                let one = cpu.rows(&x, &[r as u32]).unwrap();
                let answers = cpu.vocab(&one, &u, Some(&bias), &[Vocab::LogSumExp]).unwrap();
                let VocabOut::Values(own) = &answers[0] else { panic!("no values") };
                assert!(bits(own, cpu) == lse[r..=r], "{isa:?} {dtype:?}, log-sum-exp");
            }
        }
    }
}

#[test]
fn gradients_do_not_depend_on_threads_or_instruction_set() {
    let run = |isa, threads| -> Result<Named> {
        let cpu = &mut Cpu::new(isa, threads);
        let rng = &mut Rng::new(16);
        let mut out = Named::new();
        let (w, x) = (weight(cpu, rng, Dtype::F32, 37, 38)?, random(cpu, rng, ROWS, 38)?);
        let dy = random(cpu, rng, ROWS, 37)?;
        let (dx, dw) = (cpu.linear_vjp_input(&w, &dy)?, cpu.linear_vjp_weight(&x, &dy)?);
        let (db, da) = (cpu.sum_rows(&dy)?, cpu.act_vjp(&x, Activation::Gelu, &x)?);
        let n = NormArgs { kind: NormKind::Layer, eps: 1e-5, group: 38, gain: None, bias: None };
        let dn = cpu.norm_vjp(&x, &n, &x)?.dx;
        for (name, d) in [("dx", dx), ("dw", dw), ("db", db), ("act", da), ("norm", dn)] {
            out.push((name.into(), bits(&d, cpu)));
        }
        for spec in specs() {
            let (batch, q, k, v) = attention_input(cpu, rng, &spec)?;
            let bias = random(cpu, rng, 150, spec.n_heads)?;
            let qkv = || Qkv { q: &q, k: &k, v: &v, bias: Some(&bias) };
            let spec = AttnSpec { dropout: Dropout::new(0.2, 8, Purpose::new("test"), 1), ..spec };
            let z = cpu.attention(qkv(), &spec, 0, &batch, None, KvUse::None, None)?.z;
            out.push((format!("{spec:?}, dropped"), bits(&z, cpu)));
            let g = cpu.attention_vjp(qkv(), &spec, &batch, None, None, &q, None, None)?;
            let dbias = g.dbias.expect("there is a bias");
            out.extend([g.dq, g.dk, g.dv, dbias].map(|d| (format!("{spec:?}"), bits(&d, cpu))));
        }
        Ok(out)
    };
    let want = run(Isa::Portable, 1).unwrap();
    for isa in isas() {
        for threads in [1, 2, 3, 7] {
            for ((name, got), (_, want)) in run(isa, threads).unwrap().iter().zip(&want) {
                assert!(got == want, "{name} with {threads} threads on {isa:?}");
            }
        }
    }
}
