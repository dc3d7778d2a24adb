//! Flags of `tasks`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// List the tasks that the program brings, and how many rows of each are here.
    List(TasksList),
    /// Print a pair of prompts exactly as a model gets them, scored positions marked.
    ///
    /// The first has true labels, the second those of the setting. Texts of any length are drawn here; a
    /// study also keeps them within the model's context.
    #[command(after_long_help = "Examples:\n  refocus tasks show unnatural --demos 6\n  \
        refocus tasks show sst2.3 --data DIR --setting half\n  refocus tasks show my-task.toml --data DIR")]
    Show(TasksShow),
    /// Check a task file and its rows.
    ///
    /// Says for each class how many rows there are, or what is wrong with the file, the key or the line.
    Validate(TasksValidate),
}

#[derive(Debug, Args)]
pub(crate) struct TasksList {
    /// Folder of data with tasks/ in it, or the folder of the tasks' rows itself [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TasksShow {
    /// A task of `refocus tasks list`, one of its formats such as sst2.3, or a task file.
    pub(crate) task: String,
    /// Folder of data with tasks/ in it, or the folder of the tasks' rows itself [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Demonstrations of the prompt.
    #[arg(long, value_name = "K", default_value_t = 4)]
    pub(crate) demos: usize,
    /// Labels of the false prompt: permuted, half, random, permuted_20, _40, _60 or _80.
    #[arg(long, value_name = "SETTING", default_value = "permuted")]
    pub(crate) setting: String,
    /// Which pair of prompts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) pair: u32,
}

#[derive(Debug, Args)]
pub(crate) struct TasksValidate {
    /// A task of `refocus tasks list`, or a task file.
    pub(crate) task: String,
    /// Folder of data with tasks/ in it, or the folder of the tasks' rows itself [default: REFOCUS_DATA].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}
