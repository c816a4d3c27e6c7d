"""What fastxent promises, the programs that try to break it, and the page about both."""
