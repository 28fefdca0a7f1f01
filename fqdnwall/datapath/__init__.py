"""The kernel side: byte layouts, the loader (bcc), typed map views, events and attachment."""
