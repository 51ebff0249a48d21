"""Pages of Common Crawl by name: an index becomes ranges of web archives, which are fetched into a folder."""
