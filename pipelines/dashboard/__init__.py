"""Serve a local web page that shows the output folder of a running or finished job."""
