# make demo    trains and evaluates a LORS detector on handwritten digits (minutes on a CPU)
# make test    runs the tests
# make bench   times LORS beside AdaMixer and the method as published (25 minutes on two cores)
# make gpu     says whether a GPU computes the same and how fast (docs/gpu.md)
# make drills kills, stops and feeds nonsense to the trainer, compiles, at length (half an hour on two cores)
# All make .venv first; PYTHON=... chooses the interpreter for it.

.PHONY: demo test bench gpu drills setup

demo: .venv/complete
	.venv/bin/python train_net.py --config-file configs/digits/lors_digits.py

test: .venv/complete
	.venv/bin/ruff check .
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses auto --dist worksteal

drills: .venv/complete
	.venv/bin/python -m pytest --long tests/drills tests/training/test_train_net.py tests/adamixer/test_decoder.py tests/tools/test_study.py tests/tools/test_paper_tables.py

bench: .venv/complete
	.venv/bin/python tools/benchmark.py

gpu: .venv/complete
	.venv/bin/python tools/gpu.py --json output/gpu.json

setup: .venv/complete

.venv/complete: setup.cfg pyproject.toml detectron2_light/setup.cfg tools/setup.sh
	tools/setup.sh
