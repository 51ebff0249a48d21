"""Pages of Common Crawl by name: `altiplano data crawl --config crawl.yaml`.

A list of sites, an index of your own or a number of files of a snapshot becomes ranges of web archives, which are
fetched into a folder. The same command again fetches only what is missing. See docs/sources/common_crawl.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.crawl.config import CrawlConfig
from data_prep.crawl.fetch import crawl
from foundation.configuration import load_config, write_resolved
from foundation.progress import summary_table

EXAMPLES = """examples:
  altiplano data crawl --config crawl.yaml
      with crawl.yaml:  output: /shared/crawl
                        snapshots: [CC-MAIN-2024-10]
                        sites: [sites.txt]
  altiplano data crawl --config crawl.yaml snapshots=[CC-MAIN-2023-50] output=/shared/crawl-2023-50
      settings on the command line

then, in the data's configuration:
  sources:
    - {name: web, kind: warc, paths: [/shared/crawl], rules: [gopher, fineweb, language]}"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data crawl",
        description="Fetch pages of Common Crawl into a folder of web archives.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="YAML file with the crawl's settings"
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that override the file's")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when something does not fit."""
    given = make_parser().parse_args(arguments)
    try:
        config = load_config(CrawlConfig, given.config, given.overrides)
        complete = crawl(config)
        write_resolved(config, config.output / "config.resolved.yaml")
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; finished parts are kept; run the same command again to continue", file=sys.stderr)
        return 130
    rows = [("fetched", complete["fetched"])]
    rows += [(f"left out: {reason}", count) for reason, count in complete["left_out"].items()]
    rows += [(f"not asked for: {reason}", count) for reason, count in complete["left_out_by_the_plan"].items()]
    summary_table("Captures", rows, ("", "number"))
    print(f"{complete['bytes'] / 1e6:,.1f} MB in {config.output}, for a source of kind warc")
    return 0


if __name__ == "__main__":
    sys.exit(main())
