//! A pickle machine that knows what a dictionary of tensors needs and nothing else.
//!
//! A pickle is a program for a stack machine; Python's own reader calls whatever function it names. This
//! one calls nothing. The few names that `torch.save` writes for tensors are values of [`Global`];
//! every other name and every other opcode ends the reading with an error that says which, and where.
//!
//! Values lie in one list and refer to each other by their number, so that a value that contains itself
//! or a nest of any depth costs nothing to hold and nothing to drop. Texts stay where they lie in the file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::names::{self, Element, Global};
use crate::error::{LoadError, LoadResult, shorten};

/// Longest pickle; a hundred thousand tensors take a quarter of it.
const MOST_BYTES: usize = 64 << 20;
/// Most values of one pickle, and most entries of its memo.
const MOST_VALUES: usize = 1 << 22;
/// Most values on the stack. Python writes dictionaries in pieces of 1000 pairs.
const MOST_STACK: usize = 1 << 17;
/// Most marks at once: how deep what is not finished yet may be nested.
const MOST_MARKS: usize = 64;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// The number of a value.
pub(super) type Id = u32;

/// One value.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i128),
    /// A number with a fraction; no tensor needs its value.
    Float,
    Text(&'a str),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    /// `dict` and `OrderedDict`.
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage<'a>>),
    Tensor(Box<Tensor<'a>>),
}

impl Value<'_> {
    /// What it is, for errors.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a whole number",
            Value::Float => "a number",
            Value::Text(_) => "a text",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a name",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// A run of numbers in the file, which tensors share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// Its name in the archive.
    pub(super) key: &'a str,
    /// Its type; `None` for plain bytes.
    pub(super) element: Option<Element>,
    /// Numbers in it; bytes where it has no type.
    pub(super) numel: usize,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct Tensor<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) element: Element,
    /// In elements, as are the strides.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What a pickle left behind.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    top: Id,
    /// Every storage that was named, by its key.
    pub(super) storages: BTreeMap<&'a str, Storage<'a>>,
    /// The byte after it.
    pub(super) end: usize,
}

impl<'a> Pickle<'a> {
    pub(super) fn top(&self) -> &Value<'a> {
        self.get(self.top)
    }

    pub(super) fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }
}

/// Runs the pickle that starts at byte `start` of a file.
pub(super) fn run<'a>(path: &'a Path, bytes: &'a [u8], start: usize) -> LoadResult<Pickle<'a>> {
    let end = bytes.len().min(start.saturating_add(MOST_BYTES));
    let mut m = Machine {
        path,
        bytes: &bytes[..end],
        at: start,
        op: start,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: BTreeMap::new(),
        copied: 0,
    };
    loop {
        if let Some(top) = m.step()? {
            return Ok(Pickle { values: m.values, top, storages: m.storages, end: m.at });
        }
    }
}

struct Machine<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
    /// Where the opcode at hand stands.
    op: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: BTreeMap<&'a str, Storage<'a>>,
    /// Pairs copied out of lists; the same list may be used again and again.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn error(&self, why: impl Into<String>) -> LoadError {
        LoadError::format(self.path, self.op, why)
    }

    fn take(&mut self, n: usize) -> LoadResult<&'a [u8]> {
        match self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.error("the pickle ends inside an instruction, or is too long")),
        }
    }

    fn array<const N: usize>(&mut self) -> LoadResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn byte(&mut self) -> LoadResult<usize> {
        Ok(self.array::<1>()?[0].into())
    }

    /// Text to the end of the line.
    fn line(&mut self) -> LoadResult<&'a str> {
        const MOST: usize = 1024;
        let rest = &self.bytes[self.at..self.bytes.len().min(self.at + MOST)];
        let Some(n) = rest.iter().position(|&b| b == b'\n') else {
            return Err(self.error("a name without an end"));
        };
        let line = self.take(n)?;
        self.at += 1;
        self.utf8(line)
    }

    fn utf8(&self, bytes: &'a [u8]) -> LoadResult<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| self.error("a text is no UTF-8"))
    }

    fn text(&mut self, n: usize) -> LoadResult<()> {
        let bytes = self.take(n)?;
        let text = self.utf8(bytes)?;
        self.push(Value::Text(text))
    }

    fn push(&mut self, value: Value<'a>) -> LoadResult<()> {
        if self.values.len() >= MOST_VALUES {
            return Err(self.error(format!("more than {MOST_VALUES} values")));
        }
        self.values.push(value);
        self.push_id(self.values.len() as Id - 1)
    }

    fn push_id(&mut self, id: Id) -> LoadResult<()> {
        if self.stack.len() >= MOST_STACK {
            return Err(self.error(format!("more than {MOST_STACK} values on the stack")));
        }
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> LoadResult<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.pop() {
            Some(id) if self.stack.len() >= floor => Ok(id),
            _ => Err(self.error("the stack is empty")),
        }
    }

    fn top(&self) -> LoadResult<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(id) if self.stack.len() > floor => Ok(*id),
            _ => Err(self.error("the stack is empty")),
        }
    }

    /// The values since the last mark.
    fn since_mark(&mut self) -> LoadResult<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.error("there is no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> LoadResult<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<LoadResult<Vec<_>>>()?;
        items.reverse();
        self.push(Value::Tuple(items.into()))
    }

    fn remember(&mut self, at: u32) -> LoadResult<()> {
        let id = self.top()?;
        if self.memo.len() >= MOST_VALUES {
            return Err(self.error(format!("more than {MOST_VALUES} remembered values")));
        }
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> LoadResult<()> {
        let id = self.memo.get(&at).copied();
        self.push_id(id.ok_or_else(|| self.error(format!("nothing was remembered as {at}")))?)
    }

    fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    fn wrong(&self, what: &str, got: Id) -> LoadError {
        self.error(format!("{what} is needed, not {}", self.get(got).what()))
    }

    fn global(&mut self, module: &str, name: &str) -> LoadResult<()> {
        match names::global(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => Err(self.error(format!(
                "this pickle would run {}, which no file of tensors needs: refused, nothing was run",
                shorten(&format!("{module}.{name}"))
            ))),
        }
    }

    /// Carries out one instruction. A value once there is no more.
    fn step(&mut self) -> LoadResult<Option<Id>> {
        self.op = self.at;
        let opcode = self.array::<1>()?[0];
        match opcode {
            0x80 => match self.byte()? {
                2..=5 => {}
                n => return Err(self.error(format!("pickle protocol {n}; 2 to 5 can be read"))),
            },
            // FRAME: a length that says nothing new.
            0x95 => drop(self.array::<8>()?),
            b'.' => {
                let top = self.pop()?;
                return if self.stack.is_empty() && self.marks.is_empty() {
                    Ok(Some(top))
                } else {
                    Err(self.error("the pickle stops with values left on its stack"))
                };
            }
            b'(' => {
                if self.marks.len() >= MOST_MARKS {
                    return Err(self.error(format!("nested more than {MOST_MARKS} deep")));
                }
                self.marks.push(self.stack.len());
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => {
                let n = self.byte()?;
                self.push(Value::Int(n as i128))?;
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))?;
            }
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(n.into()))?;
            }
            0x8a => {
                let n = self.byte()?;
                let value = self.long(n)?;
                self.push(Value::Int(value))?;
            }
            b'G' => {
                self.array::<8>()?;
                self.push(Value::Float)?;
            }
            // Texts; those of Python 2 too.
            0x8c | b'U' => {
                let n = self.byte()?;
                self.text(n)?;
            }
            b'X' | b'T' => {
                let n = u32::from_le_bytes(self.array()?);
                self.text(n as usize)?;
            }
            0x8d => {
                let n = u64::from_le_bytes(self.array()?);
                self.text(usize::try_from(n).unwrap_or(usize::MAX))?;
            }
            b')' => self.push(Value::Tuple(Box::default()))?,
            0x85..=0x87 => self.tuple(usize::from(opcode) - 0x84)?,
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items.into()))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend_list(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.extend_dict(items)?;
            }
            b'q' => {
                let at = self.byte()?;
                self.remember(at as u32)?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.array()?);
                self.remember(at)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let at = self.byte()?;
                self.recall(at as u32)?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.array()?);
                self.recall(at)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.get(module), self.get(name)) {
                    (Value::Text(module), Value::Text(name)) => {
                        let (module, name) = (*module, *name);
                        self.global(module, name)?;
                    }
                    _ => return Err(self.error("a name is made of two texts")),
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Value::Storage(storage.into()))?;
            }
            b'R' => {
                let (args, function) = (self.pop()?, self.pop()?);
                self.call(function, args)?;
            }
            // The attributes of an `OrderedDict` (torch hangs `_metadata` there) change no tensor.
            b'b' => {
                let (state, of) = (self.pop()?, self.top()?);
                match (self.get(of), self.get(state)) {
                    (Value::Dict(_), Value::Dict(_)) => {}
                    (Value::Dict(_), _) => return Err(self.wrong("a dictionary of attributes", state)),
                    _ => return Err(self.wrong("a dictionary that gets attributes", of)),
                }
            }
            // What Python's reader would call at once.
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let name = shorten(&format!("{module}.{name}"));
                return Err(self
                    .error(format!("this pickle would run {name} (opcode INST): refused, nothing was run")));
            }
            _ => {
                let name = names::opcode(opcode);
                return Err(self.error(format!(
                    "opcode {name} (0x{opcode:02x}), which no file of tensors needs: refused, nothing was run"
                )));
            }
        }
        Ok(None)
    }

    /// A whole number of `n` bytes in two's complement.
    fn long(&mut self, n: usize) -> LoadResult<i128> {
        let bytes = self.take(n)?;
        if n > 16 {
            return Err(self.error(format!("a whole number of {n} bytes")));
        }
        let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [fill; 16];
        all[..n].copy_from_slice(bytes);
        Ok(i128::from_le_bytes(all))
    }

    fn extend_list(&mut self, items: Vec<Id>) -> LoadResult<()> {
        let of = self.top()?;
        match &mut self.values[of as usize] {
            Value::List(list) => list.extend(items),
            _ => return Err(self.wrong("a list to append to", of)),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: Vec<Id>) -> LoadResult<()> {
        let of = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.error("a key without a value"));
        }
        match &mut self.values[of as usize] {
            Value::Dict(dict) => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            _ => return Err(self.wrong("a dictionary to put values into", of)),
        }
        Ok(())
    }

    /// `("storage", type, key, location, numel)`, to which the old layout adds which view of another
    /// storage it is: none, in anything saved since 2018.
    fn storage(&mut self, id: Id) -> LoadResult<Storage<'a>> {
        let Value::Tuple(parts) = self.get(id) else { return Err(self.wrong("a tuple about a storage", id)) };
        let (kind, view) = match parts.len() {
            5 => (parts, None),
            6 => (parts, Some(parts[5])),
            n => return Err(self.error(format!("{n} values about a storage; 5 or 6 are possible"))),
        };
        if view.is_some_and(|v| !matches!(self.get(v), Value::None)) {
            return Err(self.error("a storage that is a view of another, as torch before 0.4 wrote them"));
        }
        let values = (self.get(kind[0]), self.get(kind[1]), self.get(kind[2]), self.get(kind[4]));
        let (
            Value::Text("storage"),
            Value::Global(Global::Storage(element)),
            Value::Text(key),
            &Value::Int(n),
        ) = values
        else {
            return Err(self.error("a storage is described by its type, its key and its length"));
        };
        let numel = usize::try_from(n).ok().filter(|&n| n <= isize::MAX as usize);
        let numel = numel.ok_or_else(|| self.error(format!("a storage of {n} elements")))?;
        let storage = Storage { key, element: *element, numel };
        match self.storages.get(key) {
            Some(other) if *other != storage => {
                let why = format!("storage {} is described in two ways", shorten(key));
                Err(self.error(why))
            }
            _ => {
                self.storages.insert(key, storage.clone());
                Ok(storage)
            }
        }
    }

    /// What calling one of the known names would give.
    fn call(&mut self, function: Id, args: Id) -> LoadResult<()> {
        let Value::Global(function) = self.get(function) else {
            return Err(self.wrong("a name that can be called", function));
        };
        let function = *function;
        let Value::Tuple(items) = self.get(args) else {
            return Err(self.wrong("a tuple of arguments", args));
        };
        if items.len() > 8 {
            return Err(self.error(format!("{} arguments for {}", items.len(), function.name())));
        }
        let items = items.clone();
        let count = |least: usize, most: usize| -> LoadResult<()> {
            if (least..=most).contains(&items.len()) {
                return Ok(());
            }
            Err(self.error(format!("{} arguments for {}", items.len(), function.name())))
        };
        match function {
            Global::OrderedDict => {
                count(0, 1)?;
                let pairs = items.first().map_or_else(|| Ok(Vec::new()), |&id| self.pairs(id))?;
                self.push(Value::Dict(pairs))
            }
            // A size is a tuple, a parameter is its tensor.
            Global::Size => {
                count(1, 1)?;
                match self.get(items[0]) {
                    Value::Tuple(_) => self.push_id(items[0]),
                    _ => Err(self.wrong("a tuple of sizes", items[0])),
                }
            }
            Global::RebuildParameter => {
                count(3, 3)?;
                match self.get(items[0]) {
                    Value::Tensor(_) => self.push_id(items[0]),
                    _ => Err(self.wrong("a tensor", items[0])),
                }
            }
            Global::RebuildTensor => {
                count(4, 4)?;
                self.tensor(&items, None)
            }
            Global::RebuildTensorV2 => {
                count(6, 7)?;
                self.tensor(&items, None)
            }
            Global::RebuildTensorV3 => {
                count(7, 8)?;
                match self.get(items[6]) {
                    Value::Global(Global::Dtype(element)) => self.tensor(&items, Some(*element)),
                    _ => Err(self.wrong("a dtype", items[6])),
                }
            }
            Global::Storage(_) | Global::Dtype(_) => {
                Err(self.error(format!("{} is a type; no file of tensors calls it", function.name())))
            }
        }
    }

    /// A list of lists or tuples of two, as Python 2 describes an `OrderedDict`.
    fn pairs(&mut self, id: Id) -> LoadResult<Vec<(Id, Id)>> {
        let Value::List(list) = self.get(id) else { return Err(self.wrong("a list of pairs", id)) };
        let copied = self.copied + list.len();
        if copied > MOST_VALUES {
            return Err(self.error(format!("more than {MOST_VALUES} pairs")));
        }
        self.copied = copied;
        let Value::List(list) = self.get(id) else { return Ok(Vec::new()) };
        let pair = |&id: &Id| match self.get(id) {
            Value::Tuple(t) if t.len() == 2 => Ok((t[0], t[1])),
            Value::List(l) if l.len() == 2 => Ok((l[0], l[1])),
            _ => Err(self.wrong("a pair", id)),
        };
        list.iter().map(pair).collect()
    }

    fn size(&self, id: Id, what: &str) -> LoadResult<usize> {
        match self.get(id) {
            Value::Int(n) => usize::try_from(*n)
                .ok()
                .filter(|&n| n <= isize::MAX as usize)
                .ok_or_else(|| self.error(format!("{what} of {n}"))),
            _ => Err(self.wrong(what, id)),
        }
    }

    fn sizes(&self, id: Id, what: &str) -> LoadResult<Vec<usize>> {
        match self.get(id) {
            Value::Tuple(ids) if ids.len() <= MOST_DIMENSIONS => {
                ids.iter().map(|&id| self.size(id, what)).collect()
            }
            Value::Tuple(ids) => {
                Err(self.error(format!("{} dimensions; at most {MOST_DIMENSIONS} are possible", ids.len())))
            }
            _ => Err(self.wrong("a tuple of sizes", id)),
        }
    }

    /// `(storage, offset, size, stride, …)`. What follows concerns gradients.
    fn tensor(&mut self, items: &[Id], dtype: Option<Element>) -> LoadResult<()> {
        let Value::Storage(storage) = self.get(items[0]) else {
            return Err(self.wrong("a storage", items[0]));
        };
        let storage = Storage::clone(storage);
        let element = match (storage.element, dtype) {
            (Some(element), None) => element,
            (None, Some(element)) => element,
            (Some(a), Some(b)) if a == b => a,
            _ => return Err(self.error("a tensor of another type than its storage")),
        };
        let offset = self.size(items[1], "an offset")?;
        let shape = self.sizes(items[2], "a size")?;
        let strides = self.sizes(items[3], "a stride")?;
        if shape.len() != strides.len() {
            return Err(self.error(format!("{} sizes, but {} strides", shape.len(), strides.len())));
        }
        if let Some(&hooks) = items.get(5)
            && !matches!(self.get(hooks), Value::None | Value::Dict(_))
        {
            return Err(self.wrong("an empty dictionary of hooks", hooks));
        }
        self.push(Value::Tensor(Box::new(Tensor { storage, element, offset, shape, strides })))
    }
}
