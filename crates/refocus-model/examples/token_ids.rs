//! Prints the ids of texts, to compare with another program's: `token_ids MODEL < TEXTS`, where MODEL is a
//! folder or a GGUF file and TEXTS a JSON list of texts. One list of ids a line.

use std::path::Path;

use refocus_model::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::args().nth(1).ok_or("usage: token_ids MODEL < TEXTS")?;
    let path = Path::new(&model);
    let tokenizer = if path.is_dir() { Tokenizer::from_folder(path)? } else { Tokenizer::from_gguf(path)? };
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin().lock())?;
    for text in texts {
        println!("{}", serde_json::to_string(&tokenizer.encode(&text, true)?)?);
    }
    Ok(())
}
