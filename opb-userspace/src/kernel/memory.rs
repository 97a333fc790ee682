//! Maps that user space reads through memory, without a system call for each entry.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{BPF_F_MMAPABLE, bpf_map_type};
use memmap2::{MmapOptions, MmapRaw};

use super::{Error, sys::MapShape};

/// An array map as memory.
pub(super) struct Table<T> {
    memory: MmapRaw,
    count: usize,
    _entries: PhantomData<T>,
}

impl<T: bytemuck::Pod> Table<T> {
    /// The shape that a map must have for [`Self::map`].
    pub(super) fn shape(entries: u32) -> MapShape {
        MapShape {
            kind: bpf_map_type::BPF_MAP_TYPE_ARRAY,
            value_size: size_of::<T>() as u32,
            entries,
            flags: BPF_F_MMAPABLE,
        }
    }

    pub(super) fn map(map: BorrowedFd<'_>, count: u32) -> Result<Self, Error> {
        let count = count as usize;
        let memory = MmapOptions::new()
            .len(count * size_of::<T>())
            .map_raw(map.as_raw_fd())
            .map_err(Error::call("to map counters, talkers and statistics"))?;
        Ok(Self { memory, count, _entries: PhantomData })
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Reads an entry that a CPU may be writing. Each number is whole; together they may be one
    /// packet apart.
    pub(super) fn read(&self, index: usize) -> T {
        assert!(index < self.count);
        // SAFETY: inside the mapping, which is page-aligned; volatile because the kernel writes it.
        unsafe { self.memory.as_ptr().cast::<T>().add(index).read_volatile() }
    }

    pub(super) fn write(&self, index: usize, value: T) {
        assert!(index < self.count);
        // SAFETY: as above.
        unsafe { self.memory.as_mut_ptr().cast::<T>().add(index).write_volatile(value) }
    }
}

/// The number of possible CPUs: maps with a part for each CPU have that many parts.
pub(super) fn cpus() -> Result<u32, Error> {
    let count = aya::util::nr_cpus().map_err(|(what, source)| Error::path("read", what)(source))?;
    Ok(count as u32)
}
