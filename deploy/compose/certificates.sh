#!/usr/bin/env bash
# Certificates for trying it out, and a token for the admin port: an authority of your own, one certificate under it.
# Usage: certificates.sh NAME[,NAME...] [FOLDER]
#   NAME is what clients connect to, a name or an IP address; FOLDER is ./secrets beside this file.
# Where FOLDER has an authority already, that one signs a new certificate; nothing else changes.
set -euo pipefail
names=${1:?say the name that clients connect to, such as pcc.example.org}
folder=${2:-"$(cd "$(dirname "$0")" && pwd)/secrets"}

run() { # openssl is talkative when all is well
  local said
  said=$("$@" 2>&1) || { echo "certificates.sh: $1 failed: $said" >&2; exit 1; }
}

also=""
for name in ${names//,/ }; do
  if [[ $name =~ ^[0-9]+(\.[0-9]+){3}$ || $name == *:* ]]; then also+=",IP:$name"; else also+=",DNS:$name"; fi
done
umask 077
mkdir -p "$folder"
cd "$folder"
if [[ ! -e ca.key ]]; then
  run openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj "/CN=hybrid-pcc trial authority" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt
  run openssl rand -base64 -out admin.token 32
fi
run openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=${names%%,*}" -keyout new.key -out new.csr
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$also" >new.ext
run openssl x509 -req -in new.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 90 -out new.crt -extfile new.ext
mv new.key tls.key
mv new.crt tls.crt
rm -f new.csr new.ext ca.srl
chmod 644 ca.crt tls.crt
echo "made tls.crt and tls.key in $folder; ca.crt is for clients, admin.token for the admin port"
