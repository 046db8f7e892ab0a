//! A simulated folder that keeps two images, what a process sees and what survives the machine, and
//! that fails when a test wants it to.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, Mark};

/// Clones are the same folder.
#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
    /// Who holds this holds back every sync.
    pub(crate) gate: Arc<Mutex<()>>,
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    /// How often a name was given or taken away.
    changes: u64,
    /// How many more operations succeed; none: all of them.
    budget: Option<u32>,
    /// How many operations then fail before the disk is well again; none: it is never well again.
    faults: Option<u32>,
    /// How many bytes a failing append leaves behind.
    torn_bytes: usize,
}

#[derive(Clone, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// A sync failed: what was not durable then never becomes so.
    lost: bool,
}

impl SimDisk {
    /// After `budget` more operations the disk fails `faults` times, or for good.
    pub(crate) fn fail_after(&self, budget: u32, faults: Option<u32>, torn_bytes: usize) {
        let mut state = self.state.lock();
        (state.budget, state.faults, state.torn_bytes) = (Some(budget), faults, torn_bytes);
    }

    /// The folder after the machine went down: what was durable, and of what was not yet synced as many
    /// bytes as the system had happened to write.
    pub(crate) fn after_crash(&self, also_written: usize) -> Self {
        let state = self.state.lock();
        let inodes = state.inodes.iter().map(|inode| {
            let mut durable = inode.durable.clone();
            if !inode.lost {
                let rest = inode.seen.get(durable.len()..).unwrap_or_default();
                durable.extend_from_slice(&rest[..rest.len().min(also_written)]);
            }
            Inode { seen: durable.clone(), durable, lost: false }
        });
        let inodes = inodes.collect();
        let state = State { inodes, names: state.names.clone(), ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    /// Whether every operation from now on fails.
    pub(crate) fn is_broken(&self) -> bool {
        let state = self.state.lock();
        (state.budget, state.faults) == (Some(0), None)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        let state = self.state.lock();
        state.inodes[state.names[name]].seen.clone()
    }

    /// Puts a file there, durably.
    pub(crate) fn write(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        let inode = Inode { seen: bytes.clone(), durable: bytes, lost: false };
        state.put(name, inode);
    }

    /// Adds to the end of a file, durably.
    pub(crate) fn grow(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state.lock();
        let inode = state.inode(name).unwrap();
        let inode = &mut state.inodes[inode];
        inode.seen.extend_from_slice(bytes);
        inode.durable = inode.seen.clone();
    }
}

impl State {
    /// One operation: does it fail?
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.budget {
            None => Ok(()),
            Some(0) => {
                match &mut self.faults {
                    Some(0 | 1) => self.budget = None,
                    Some(faults) => *faults -= 1,
                    None => {}
                }
                Err(io::Error::other("simulated fault"))
            }
            Some(budget) => {
                *budget -= 1;
                Ok(())
            }
        }
    }

    fn put(&mut self, name: &str, inode: Inode) -> usize {
        self.changes += 1;
        self.inodes.push(inode);
        self.names.insert(name.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    fn inode(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state.lock();
        let size = |inode: &usize| state.inodes[*inode].seen.len() as u64;
        Ok(state.names.iter().map(|(name, inode)| (name.clone(), size(inode))).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.operate()?;
        let inode = state.put(name, Inode::default());
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let state = self.state.lock();
        let inode = state.inode(name)?;
        Ok(Box::new(Cursor::new(state.inodes[inode].seen.clone())))
    }

    fn truncate(&self, name: &str, bytes: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let inode = state.inode(name)?;
        let inode = &mut state.inodes[inode];
        inode.seen.truncate(usize::try_from(bytes).unwrap());
        inode.durable = inode.seen.clone();
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        let inode = state.inode(from)?;
        state.changes += 1;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.inode(name)?;
        state.changes += 1;
        state.names.remove(name);
        Ok(())
    }

    fn mark(&self, name: &str) -> io::Result<Mark> {
        let state = self.state.lock();
        let inode = state.inode(name)?;
        let bytes = state.inodes[inode].seen.len() as u64;
        Ok(Mark { file: (1, inode as u64), written: (bytes, 0, 0) })
    }

    fn own_mark(&self) -> io::Result<Mark> {
        Ok(Mark { file: (0, 0), written: (self.state.lock().changes, 0, 0) })
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl DiskFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let result = state.operate();
        let written = if result.is_ok() { bytes.len() } else { bytes.len().min(state.torn_bytes) };
        state.inodes[self.inode].seen.extend_from_slice(&bytes[..written]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let _open = self.disk.gate.lock();
        let mut state = self.disk.state.lock();
        let result = state.operate();
        let inode = &mut state.inodes[self.inode];
        match result {
            Ok(()) if !inode.lost => inode.durable = inode.seen.clone(),
            Ok(()) => {}
            Err(_) => inode.lost = true,
        }
        result
    }

    fn still_there(&self) -> io::Result<()> {
        let state = self.disk.state.lock();
        if state.names.values().any(|inode| *inode == self.inode) {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}
