"""Manual pages: roff turned into text."""
from data_prep.sources.text import READER
