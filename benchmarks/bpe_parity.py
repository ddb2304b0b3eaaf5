"""Our BPE trainer against the `tokenizers` library's on all training reviews, at a size too slow for a page.

    python benchmarks/bpe_parity.py        about a minute; writes artifacts/bpe_parity/record.json

Measured: how many merges differ, and the times of both with one thread, in one run; a training that learns a single
merge tells what cutting and counting the text takes, and so what is left for the merging.
"""

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # before the library starts its threads

import time  # noqa: E402

from plm_tutorial.records import write_record  # noqa: E402
from plm_tutorial.text import reviews, split_hashes  # noqa: E402
from plm_tutorial.tokenizers import BPETokenizer, train_bpe, train_fast_bpe  # noqa: E402

VOCAB = 32_768


def seconds(train, texts, vocab_size=VOCAB) -> tuple[float, object]:
    """Return how long ``train`` takes on ``texts``, and what it returns."""
    start = time.perf_counter()
    trained = train(texts, vocab_size)
    return time.perf_counter() - start, trained


def main() -> None:
    texts = reviews(split="train")["text"][:]
    ours_seconds, ours = seconds(train_bpe, texts)
    library_seconds, library = seconds(train_fast_bpe, texts)
    ours_cutting, _ = seconds(train_bpe, texts, 257)
    library_cutting, _ = seconds(train_fast_bpe, texts, 257)
    merging = (ours_seconds - ours_cutting) / (library_seconds - library_cutting)
    theirs = BPETokenizer.from_library(library).merges
    differing = sum(a != b for a, b in zip(ours.merges, theirs, strict=True))
    scores = {
        "training reviews": len(texts),
        "merges learned": len(ours.merges),
        "merges that differ from the library's": differing,
        "time of ours / time of the library, one thread each": round(ours_seconds / library_seconds, 2),
        "the same for merging alone, without cutting and counting the text": round(merging, 1),
    }
    data = split_hashes("imdb/train", "rotten_tomatoes/train")
    print(write_record("bpe_parity", scores, command="python benchmarks/bpe_parity.py", data=data, seeds=[]))
    print(scores)


if __name__ == "__main__":
    main()
