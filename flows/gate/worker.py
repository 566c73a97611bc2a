"""Evaluates one version with the code it ships, in a process of its own: no process ever holds
the modules of two versions.

    python -I worker.py CODE PACKAGE ADDITIONS CASES OUT

reads `CASES` (one row a user: what was known, by item ids and times, and the target), asks the
package, extended by the items published since, and writes to the folder `OUT`: `answers.parquet`
(rank of the target, list of ten), `items.parquet` (ids and titles of its catalogue) and
`model.json` (health of the codebook, overlap of the interests).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LIST_LENGTH = 10
OVERLAP_CASES, BATCH = 1000, 256


def main(code: Path, package_path: Path, additions: Path, cases_path: Path, out: Path) -> None:
    """Evaluate; see the module."""
    sys.path.insert(0, str(code))
    try:
        import hymirec
        from hymirec.additions import publications, read
        from hymirec.evaluation.protocol import answer_cases
        from hymirec.inputs import IndexedHistory, number_items
        from hymirec.package import RecommenderPackage
        from hymirec.splits import Case
    except ImportError as error:
        sys.exit(
            f"the hymirec that it ships is not one that this gate can ask ({error}). `hymirec "
            "pipeline` registers the model anew; past a champion like this leads `hymirec promote "
            "VERSION --force --reason upgrade`"
        )
    import numpy as np
    import pandas as pd
    import torch

    loaded = Path(hymirec.__file__).resolve()
    if not loaded.is_relative_to(code.resolve()):
        raise ImportError(f"hymirec is loaded from {loaded}, not from {code}")
    package = RecommenderPackage.load(package_path)
    if (published := read(publications(additions))) is not None:
        package = package.extended(published)
    model, ids = package.model, package.items["item_id"].tolist()
    vectors = model.item_vectors()[1:]
    codes = np.concatenate([np.zeros((1, model.codebook.bytes_per_item), np.uint8),
                            model.codebook.encode(vectors).numpy()])  # fmt: skip
    index = number_items(ids)
    asked = pd.read_parquet(cases_path)
    columns = (asked[name].tolist() for name in ("items", "times", "target"))
    cases, known_target = [], []
    for items, times, target in zip(*columns, strict=True):
        places = np.array([index.get(item, 0) for item in items], dtype=np.int64)
        known = places > 0
        history = IndexedHistory.of(places[known], times=np.asarray(times, np.int64)[known])
        known_target.append(target in index)
        cases.append(Case(history.coded(codes), index.get(target, 1)))

    answers = answer_cases(model, cases, list_length=LIST_LENGTH)
    # What is not in the catalogue cannot be found.
    ranks = np.where(known_target, answers.ranks[:, 0].numpy(), np.inf)
    names = np.array(["", *ids], dtype=object)
    pd.DataFrame(
        {"rank": ranks, "listed": [names[row].tolist() for row in answers.lists.numpy()]}
    ).to_parquet(out / "answers.parquet", index=False)
    package.items[["item_id", "title"]].to_parquet(out / "items.parquet", index=False)

    some = [case.known for case in cases[:: max(1, len(cases) // OVERLAP_CASES)]]
    batches = [some[start : start + BATCH] for start in range(0, len(some), BATCH)]
    with torch.no_grad():
        interests = torch.cat([model.encode_user(model.assemble(batch)) for batch in batches])
        cosines = interests @ interests.transpose(1, 2)  # [cases, S, S]
    count = cosines.shape[1]
    others = ~torch.eye(count, dtype=torch.bool)
    report = {
        "codebook": model.codebook.health(vectors),
        "overlap": float(cosines[:, others].mean()) if count > 1 else 0.0,
        "published_since": 0 if published is None else len(published),
        "package": {"codebook_id": package.info.codebook_id, "items": len(ids)},
    }
    (out / "model.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
