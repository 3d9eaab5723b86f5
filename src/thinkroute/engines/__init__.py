"""Things that generate: HTTP upstreams and the embedded fleet, all behind `programs.protocol.Engine`."""
