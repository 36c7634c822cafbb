# What vifproxy/dom0.sls makes. Edit it: this is an example.
vifproxy:
  netvm: sys-vifproxy
  template: debian-13-xfce
  label: orange
  upstream: sys-firewall
  # Firewall settings that name hosts are the lists of AppVMs that have no other one.
  settings_are_lists: false
  # AppVMs may ask dom0 for hosts, which asks you.
  ask: true
  appvms:
    banking:
      ip: 10.137.0.11
      list:
        - bank.example
        - '*.bank.example'
        - egress=192.168.1.5/32:631
    shopping:
      ip: 10.137.0.12
      list:
        - shop.example
