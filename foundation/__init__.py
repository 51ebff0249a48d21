"""What every room stands on: typed configuration, files that appear whole, progress that people can read."""
