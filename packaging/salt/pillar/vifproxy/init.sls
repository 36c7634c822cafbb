# What vifproxy/dom0.sls and vifproxy/rules.sls make. Edit it: this is an example.
vifproxy:
  template: debian-12
  label: orange
  upstream: sys-firewall
  appvms:
    banking:
      ip: 10.137.0.11
      rules:
        - '#: format domains'
        - bank.example
        - '*.bank.example'
    shopping:
      ip: 10.137.0.12
      rules:
        - ^shop\.example$
