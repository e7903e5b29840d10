"""Takes single entries out of FAISS's inverted lists; FAISS itself would read them all for it."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from corerec.stages import Int64s

_faiss: Any = faiss


def list_ids(lists: Any, place: int) -> Int64s:
    """Return the ids of a list, a view on FAISS's memory."""
    size = lists.list_size(place)
    if not size:
        return np.empty(0, np.int64)
    ids: Int64s = _faiss.rev_swig_ptr(lists.get_ids(place), size)
    return ids


def stored_numbers(index: Any) -> Int64s:
    """Return the ids of all lists, ascending."""
    lists = _faiss.downcast_InvertedLists(index.invlists)
    found = [list_ids(lists, place) for place in range(index.nlist)]
    return np.sort(np.concatenate(found))


def drop_entries(index: Any, selector: Any) -> None:
    """Take out every entry that a selector picks, reading all lists once."""
    index.remove_ids(selector)
    lists = _faiss.downcast_InvertedLists(index.invlists)
    if isinstance(lists, _faiss.BlockInvertedLists):
        for place in range(index.nlist):
            _clear_tail(lists, place)


def drop_entry(index: Any, place: int, number: int) -> bool:
    """Take the entry of an id out of a list: the last one moves into its place."""
    lists = _faiss.downcast_InvertedLists(index.invlists)
    ids = list_ids(lists, place)
    found = np.flatnonzero(ids == number)
    if not len(found):
        return False
    at, last = int(found[0]), len(ids) - 1
    if isinstance(lists, _faiss.BlockInvertedLists):
        _move_packed(lists, place, last, at)
    else:
        _move(lists, place, last, at)
    ids[at] = ids[last]
    lists.resize(place, last)
    index.ntotal -= 1
    return True


def _move(lists: Any, place: int, source: int, target: int) -> None:
    size = lists.list_size(place) * lists.code_size
    codes = _faiss.rev_swig_ptr(lists.get_codes(place), size).reshape(-1, lists.code_size)
    codes[target] = codes[source]


def _move_packed(lists: Any, place: int, source: int, target: int) -> None:
    """Move a code within the interleaved blocks of fast scan."""
    blocks = -(-lists.list_size(place) // lists.n_per_block)
    codes = _faiss.rev_swig_ptr(lists.get_codes(place), blocks * lists.block_size)
    codes = codes.reshape(blocks, lists.block_size)
    code = np.empty(lists.packer.code_size, np.uint8)
    block, offset = divmod(source, lists.n_per_block)
    lists.packer.unpack_1_c(_faiss.swig_ptr(codes[block]), offset, _faiss.swig_ptr(code))
    block, offset = divmod(target, lists.n_per_block)
    lists.packer.pack_1_c(_faiss.swig_ptr(code), offset, _faiss.swig_ptr(codes[block]))
    # FAISS adds a code onto what is there, so a place that is left must be empty.
    code[:] = 0
    block, offset = divmod(source, lists.n_per_block)
    lists.packer.pack_1_c(_faiss.swig_ptr(code), offset, _faiss.swig_ptr(codes[block]))


def _clear_tail(lists: Any, place: int) -> None:
    """Empty the places of a list's last block that hold no entry; see above."""
    block, used = divmod(lists.list_size(place), lists.n_per_block)
    if used:
        size = (block + 1) * lists.block_size
        codes = _faiss.rev_swig_ptr(lists.get_codes(place), size)[block * lists.block_size :]
        code = np.zeros(lists.packer.code_size, np.uint8)
        for offset in range(used, lists.n_per_block):
            lists.packer.pack_1_c(_faiss.swig_ptr(code), offset, _faiss.swig_ptr(codes))
