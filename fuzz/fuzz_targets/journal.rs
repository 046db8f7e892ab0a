//! Any bytes as two segments and a checkpoint: reading back never panics, and what it leaves behind is
//! a journal that is read back without a fault.
//!
//! `cargo +nightly fuzz run journal -- -max_total_time=60`

#![no_main]

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};

use libfuzzer_sys::fuzz_target;
use mediatally::journal::Ids;
use mediatally::journal::disk::{Disk, DiskFile};
use mediatally::journal::recovery::{Recovered, recover};
use mediatally::live::{self, Live};
use mediatally::processor::Processor;

#[derive(Default)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

struct File(Arc<Mutex<BTreeMap<String, Vec<u8>>>>, String);

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = self.0.lock().unwrap();
        Ok(files.iter().map(|(name, bytes)| (name.clone(), bytes.len() as u64)).collect())
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.0.lock().unwrap().insert(name.to_owned(), Vec::new());
        Ok(Box::new(File(self.0.clone(), name.to_owned())))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.0.lock().unwrap().get(name).cloned();
        Ok(Box::new(Cursor::new(bytes.ok_or(io::ErrorKind::NotFound)?)))
    }
    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.lock().unwrap().get_mut(name).unwrap().truncate(bytes as usize);
        Ok(())
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let bytes = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().entry(self.1.clone()).or_default().extend_from_slice(bytes);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn still_there(&self) -> io::Result<()> {
        Ok(())
    }
}

fn read_back(disk: &Memory) -> io::Result<Recovered> {
    let live = Arc::new(Live::new(live::Settings::default()));
    recover(disk, &live, &mut Processor::new(Arc::clone(&live)), &Ids::default())
}

fuzz_target!(|files: (Vec<u8>, u8, Vec<u8>, Option<Vec<u8>>)| {
    let (first, second_seq, second, checkpoint) = files;
    let disk = Memory::default();
    disk.0.lock().unwrap().insert("00000000000000000001.ndjson".into(), first);
    disk.0.lock().unwrap().insert(format!("{second_seq:020}.ndjson"), second);
    if let Some(checkpoint) = checkpoint {
        disk.0.lock().unwrap().insert("checkpoint-00000000000000000001".into(), checkpoint);
    }
    // Only a record of another version is a reason not to start.
    if read_back(&disk).is_ok() {
        assert_eq!(read_back(&disk).unwrap().cut_bytes, 0, "what was cut once is gone");
    }
});
