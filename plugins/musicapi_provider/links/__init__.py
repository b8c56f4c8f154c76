"""What tasks leave for people: extra links, addresses on the API server, XCom keys."""
