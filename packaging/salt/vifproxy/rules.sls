{#- In the netvm: a rule file for each AppVM. Files that the pillar does not name stay as they are. -#}
{%- for name, appvm in pillar['vifproxy'].appvms.items() %}
/rw/config/tinyproxy/{{ name }}.{{ appvm.ip }}:
  file.managed:
    - contents: {{ appvm.rules | tojson }}
    - user: root
    - group: root
    - mode: '0644'
    - makedirs: true
{% endfor %}
